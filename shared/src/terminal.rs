//! Output for people, to standard output and standard error.
//!
//! `println!` panics if it cannot write the line, for example because the reading program has ended
//! or the disk is full. That must not end a process with other work. So this code prints with
//! [`say!`](crate::say) and [`complain!`](crate::complain), which drop such a line. The lints
//! `print_stdout` and `print_stderr` enforce this.

use std::{
    fmt::Arguments,
    io::{self, Write},
};

/// Writes a line to standard output, as `println!` does. Drops it if it cannot be written.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::terminal::out(::std::format_args!($($arg)*)) };
}

/// Writes a line to standard error, as `eprintln!` does. Drops it if it cannot be written.
#[macro_export]
macro_rules! complain {
    ($($arg:tt)*) => { $crate::terminal::err(::std::format_args!($($arg)*)) };
}

/// See [`say!`](crate::say).
pub fn out(line: Arguments<'_>) {
    write(&mut io::stdout().lock(), line);
}

/// See [`complain!`](crate::complain).
pub fn err(line: Arguments<'_>) {
    write(&mut io::stderr().lock(), line);
}

fn write(output: &mut dyn Write, line: Arguments<'_>) {
    // In one call: standard error is not buffered, and no line of another process comes between.
    let _ = output.write_all(format!("{line}\n").as_bytes()).and_then(|()| output.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_line_is_written_whole_or_dropped() {
        let mut lines = Vec::new();
        write(&mut lines, format_args!("{} of {}", 1, 2));
        write(&mut lines, format_args!("two\nlines"));
        assert_eq!(lines, b"1 of 2\ntwo\nlines\n");
        write(&mut Full, format_args!("nowhere"));
    }
}
