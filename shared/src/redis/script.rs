//! Lua scripts, and calls of them.

use ::redis::{Cmd, ErrorKind, RedisError, RedisWrite, ServerErrorKind, ToRedisArgs, cmd};

/// What runs on a server as a whole.
pub(crate) struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    pub(crate) fn new(text: &'static str) -> Self {
        let hash = ::redis::Script::new(text).get_hash().to_owned();
        Self { text, hash }
    }

    /// A call on these keys: all that the script touches, and all of one slot.
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

    /// The hash tag of its keys, `{…}`: what they share a slot by.
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

/// Whether the server said that it does not know the script.
pub(super) fn is_unknown(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Makes a script run also when the server's memory is full (`maxmemory`). Put in front of its
/// text.
///
/// A full server refuses a script's first write if that may take memory. If it does not, the server
/// lets the whole script run (documented under "Execution under low memory conditions"). This one
/// changes nothing: a key that comes first in `KEYS` has no time to live, or gets it anew. The flag
/// `allow-oom` says the same, but Redis 6.2 refuses a script that begins with `#!lua`.
macro_rules! allow_full_memory {
    () => {
        "redis.call('PERSIST', KEYS[1])\n"
    };
}
pub(crate) use allow_full_memory;

/// The scripts of a folder, each behind the folder's prelude, as the static `SCRIPTS`. Those that
/// free or move work run also when the server's memory is full. Those that only read, or take in
/// more, have no need of that.
macro_rules! scripts {
    ($folder:literal: $($name:ident),* ; even_when_full: $($even:ident),+ $(,)?) => {
        /// What runs on the server.
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

/// Whether the server refused to take more, since its memory is full.
pub(crate) fn is_full(error: &RedisError) -> bool {
    const CODE: &str = "OOM";
    // Servers before Redis 7 put it into the text of another error.
    error.code() == Some(CODE)
        || error.detail().is_some_and(|detail| detail.contains("OOM command not allowed"))
}
