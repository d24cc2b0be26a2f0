//! Lua scripts and their calls.

use ::redis::{Cmd, ErrorKind, RedisError, RedisWrite, ServerErrorKind, ToRedisArgs, cmd};

/// A script.
pub(crate) struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    pub(crate) fn new(text: &'static str) -> Self {
        let hash = ::redis::Script::new(text).get_hash().to_owned();
        Self { text, hash }
    }

    /// A call with these keys: all that the script touches, in one slot.
    pub(crate) fn on(&self, keys: &[String]) -> Call<'_> {
        let arguments = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
        Call { script: self, keys: keys.len(), arguments }
    }
}

/// A script with its keys and arguments.
pub(crate) struct Call<'a> {
    script: &'a Script,
    keys: usize,
    arguments: Vec<Vec<u8>>,
}

impl Call<'_> {
    pub(crate) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        argument.write_redis_args(&mut self.arguments);
        self
    }

    /// The hash tag of the keys, `{…}`, which determines their slot.
    pub(super) fn tag(&self) -> String {
        let key = String::from_utf8_lossy(self.arguments.first().map_or(&[], Vec::as_slice));
        key.split_inclusive('}').next().unwrap_or_default().to_owned()
    }

    pub(super) fn by_hash(&self) -> Cmd {
        self.command("EVALSHA", &self.script.hash)
    }

    pub(super) fn by_text(&self) -> Cmd {
        self.command("EVAL", self.script.text)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = cmd(name);
        command.arg(script).arg(self.keys);
        for argument in &self.arguments {
            command.write_arg(argument);
        }
        command
    }
}

/// Whether the server does not know the script.
pub(super) fn is_unknown(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// The first line of a script that must run even if the server's memory is full (`maxmemory`).
///
/// A full server refuses a script whose first write may take memory. If the first write takes none,
/// the server runs the whole script (Redis documents this as "Execution under low memory
/// conditions"). This write changes nothing: the first key in `KEYS` has no time to live, or gets a
/// new one. The flag `allow-oom` does the same, but Redis 6.2 rejects a script that begins with
/// `#!lua`.
macro_rules! allow_full_memory {
    () => {
        "redis.call('PERSIST', KEYS[1])\n"
    };
}
pub(crate) use allow_full_memory;

/// Writes the key, to prove that the server takes writes. Runs even on full memory.
pub(super) const TOUCH: &str = concat!(allow_full_memory!(), "redis.call('SET', KEYS[1], 1)");

/// The scripts of a directory, each after the directory's prelude, as the static `SCRIPTS`. Scripts
/// that free memory or move accepted work run even on full memory.
macro_rules! scripts {
    ($folder:literal: $($name:ident),* ; even_when_full: $($even:ident),+ $(,)?) => {
        /// The scripts.
        struct Scripts {
            $($name: $crate::redis::Script,)*
            $($even: $crate::redis::Script,)+
        }

        static SCRIPTS: std::sync::LazyLock<Scripts> = std::sync::LazyLock::new(|| Scripts {
            $($name: $crate::redis::Script::new(concat!(
                include_str!(concat!($folder, "/prelude.lua")),
                include_str!(concat!($folder, "/", stringify!($name), ".lua")),
            )),)*
            $($even: $crate::redis::Script::new(concat!(
                $crate::redis::allow_full_memory!(),
                include_str!(concat!($folder, "/prelude.lua")),
                include_str!(concat!($folder, "/", stringify!($even), ".lua")),
            )),)+
        });
    };
}
pub(crate) use scripts;

/// Whether the server refused the write because its memory is full.
pub(crate) fn is_full(error: &RedisError) -> bool {
    const CODE: &str = "OOM";
    // Servers before Redis 7 report it in the text of another error.
    error.code() == Some(CODE)
        || error.detail().is_some_and(|detail| detail.contains("OOM command not allowed"))
}
