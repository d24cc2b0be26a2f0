//! Runs a target: its corpus as it stands, then inputs that are made from it.

use std::{
    cell::Cell,
    fmt,
    panic::{RefUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bolero::{
    BorrowedInput, ByteSliceGenerator, DefaultEngine, Driver, TestTarget, ValueGenerator,
};

/// How long a target runs if `BOLERO_RANDOM_TEST_TIME_MS` does not say.
const RUN: Duration = Duration::from_secs(3);

/// How long one input may take. Generous, since other tests run beside this one; an endless loop is
/// beyond any bound.
const INPUT_BOUND: Duration = Duration::from_secs(20);

/// Edits of one input at most.
const MAX_EDITS: usize = 6;

/// How often a token is repeated: deep nesting, long lists.
const MAX_REPEATS: usize = 3000;

/// What has a meaning somewhere, whatever the target: structure, numbers at their limits, escapes,
/// ends of lines, broken encodings.
const TOKENS: [&[u8]; 48] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"\"\"",
    b"-1",
    b"0",
    b"1e999",
    b"-0",
    b"4294967296",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"18446744073709551615",
    b"0.1",
    b"\\u0000",
    b"\\ud800",
    b"\\n",
    b"%00",
    b"%2f",
    b"%25",
    b"..",
    b"/",
    b"//",
    b"@",
    b"#",
    b"?",
    b"&",
    b"=",
    b";",
    b" ",
    b"\t",
    b"\r\n",
    b"\0",
    b"\x7f",
    b"\xff",
    b"\xc3\xa9",
    b"\xe2\x80\xae",
    b"\xef\xbc\x90",
    b"99999999999999999999",
    b"_",
];

/// The bytes of an input; shown as they could be typed.
#[derive(Clone)]
struct Input(Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// What judges an input. A finding ends the run, so nothing reads what a panic left half done.
struct Judge<F>(F);

impl<F> RefUnwindSafe for Judge<F> {}

impl<F: Fn(&[u8])> Judge<F> {
    fn judge(&self, input: &[u8]) {
        (self.0)(input);
    }
}

/// Runs `judge` on every input of the corpus of the target `name` (`file__test`), then on inputs
/// made from them and from `words`. A panic of it is a finding; so is an input that takes longer
/// than [`INPUT_BOUND`], which ends the process.
pub(crate) fn run(
    target: TestTarget<ByteSliceGenerator, DefaultEngine, BorrowedInput>,
    name: &str,
    words: &[&str],
    judge: impl Fn(&[u8]),
) {
    let corpus = corpus(name);
    let watchdog = Watchdog::start(name);
    let judged = Cell::new(0_u64);
    let judge = Judge(|input: &[u8]| {
        judged.set(judged.get() + 1);
        watchdog.watched(input, || judge(input));
    });
    for (file, input) in &corpus {
        if let Err(panic) = catch_unwind(|| judge.judge(input)) {
            eprintln!("this input of the corpus fails: {}", file.display());
            resume_unwind(panic);
        }
    }
    let seeds = corpus.into_iter().map(|(_, input)| input).collect();
    let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    let (judge, kept) = (&judge, judged.get());
    target.with_generator(Edits { seeds, words }).with_test_time(RUN).for_each(
        move |input: &Input| {
            if let Err(panic) = catch_unwind(|| judge.judge(&input.0)) {
                keep(name, &input.0);
                resume_unwind(panic);
            }
        },
    );
    println!("{name}: {kept} inputs of the corpus, {} made from them", judged.get() - kept);
}

/// Every file of the corpus; there is at least one.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/__fuzz__").join(name).join("corpus");
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.into_iter().map(|file| (file.clone(), std::fs::read(&file).unwrap())).collect()
}

/// Writes what was found to a file, and says where it is. Shrinking overwrites it with what is
/// smaller.
fn keep(name: &str, input: &[u8]) {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.finding"));
    match std::fs::write(&file, input) {
        Ok(()) => eprintln!("the input is in {}", file.display()),
        Err(error) => eprintln!("the input could not be kept: {error}"),
    }
}

/// Makes inputs from seeds.
struct Edits {
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
}

impl Edits {
    fn token(&self, driver: &mut impl Driver) -> Option<&[u8]> {
        let index = (0..TOKENS.len() + self.words.len()).generate(driver)?;
        Some(
            TOKENS
                .get(index)
                .copied()
                .unwrap_or_else(|| self.words[index - TOKENS.len()].as_slice()),
        )
    }

    fn seed(&self, driver: &mut impl Driver) -> Option<&[u8]> {
        Some(self.seeds[(0..self.seeds.len()).generate(driver)?].as_slice())
    }

    /// Changes one place.
    fn edit(&self, bytes: &mut Vec<u8>, driver: &mut impl Driver) -> Option<()> {
        let at = (0..=bytes.len()).generate(driver)?;
        let end = at + (0..=(bytes.len() - at).min(24)).generate(driver)?;
        match (0_u8..9).generate(driver)? {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.truncate(at),
            2 => {
                let other = self.seed(driver)?;
                bytes.truncate(at);
                bytes.extend_from_slice(&other[(0..=other.len()).generate(driver)?..]);
            }
            3 => {
                let copied = bytes[at..end].to_vec();
                bytes.splice(at..at, copied);
            }
            4 => {
                let repeated = self.token(driver)?.repeat((1..=MAX_REPEATS).generate(driver)?);
                bytes.splice(at..at, repeated);
            }
            5 => {
                let byte = driver.produce::<u8>()?;
                bytes.splice(at..end.min(at + 1), [byte]);
            }
            6 => {
                // A number becomes another one.
                let digits =
                    bytes[at..].iter().position(u8::is_ascii_digit).map_or(at, |skip| at + skip);
                let after = bytes[digits..]
                    .iter()
                    .position(|byte| !byte.is_ascii_digit())
                    .map_or(bytes.len(), |n| digits + n);
                let token = self.token(driver)?.to_vec();
                bytes.splice(digits..after, token);
            }
            _ => {
                let token = self.token(driver)?.to_vec();
                bytes.splice(at..end, token);
            }
        }
        Some(())
    }
}

impl ValueGenerator for Edits {
    type Output = Input;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Input> {
        let mut bytes = self.seed(driver)?.to_vec();
        for _ in 0..(1..=MAX_EDITS).generate(driver)? {
            self.edit(&mut bytes, driver)?;
        }
        Some(Input(bytes))
    }
}

/// What is judged now, and since when.
type Current = Option<(Instant, Vec<u8>)>;

/// That, whether the run is over, and what tells so.
type Watched = (Mutex<(Current, bool)>, Condvar);

/// Ends the process when one input takes too long: an endless loop cannot be ended otherwise.
struct Watchdog {
    current: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    fn start(name: &str) -> Self {
        let current: Arc<Watched> = Arc::default();
        let (watched, name) = (Arc::clone(&current), name.to_owned());
        let thread = std::thread::spawn(move || {
            let (state, ended) = &*watched;
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            while !state.1 {
                if let Some((since, input)) = &state.0
                    && since.elapsed() > INPUT_BOUND
                {
                    eprintln!(
                        "{name}: an input takes longer than {INPUT_BOUND:?}: {:?}",
                        Input(input.clone())
                    );
                    keep(&name, input);
                    std::process::abort();
                }
                state = ended
                    .wait_timeout(state, Duration::from_secs(1))
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        });
        Self { current, thread: Some(thread) }
    }

    fn set(&self, current: Current) {
        self.current.0.lock().unwrap_or_else(PoisonError::into_inner).0 = current;
    }

    fn watched(&self, input: &[u8], judge: impl FnOnce()) {
        self.set(Some((Instant::now(), input.to_vec())));
        // A panic leaves it set for a moment: the next input replaces it, and dropping the watchdog
        // ends it.
        judge();
        self.set(None);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.current.0.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.current.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
