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

/// The scripts of a folder, each behind the folder's prelude, as the static `SCRIPTS`.
macro_rules! scripts {
    ($folder:literal: $($name:ident),+ $(,)?) => {
        /// What runs on the server.
        struct Scripts {
            $($name: $crate::redis::Script),+
        }

        static SCRIPTS: std::sync::LazyLock<Scripts> = std::sync::LazyLock::new(|| Scripts {
            $($name: $crate::redis::Script::new(concat!(
                include_str!(concat!($folder, "/prelude.lua")),
                include_str!(concat!($folder, "/", stringify!($name), ".lua")),
            ))),+
        });
    };
}
pub(crate) use scripts;
