//! `local backup`, `local restore` and `local recover`: commands for the embedded file.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use shared::sqlite::{
    Copied, CopyError, DATABASE_FILE, DataDir, Recovered, backup, master_key_file::MASTER_KEY_FILE,
    recover, restore,
};

use crate::{errors::explain, options::Command};

/// Runs the command and prints its result. The exit code is 1 if it failed.
pub fn run(command: &Command, data_dir: &Path) -> ExitCode {
    match perform(command, data_dir) {
        Ok(text) => {
            // The command succeeded even if standard output is closed.
            let _ = writeln!(io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "local {} failed:\n{}", command.name(), explain(&error));
            ExitCode::FAILURE
        }
    }
}

fn perform(command: &Command, data_dir: &Path) -> Result<String, CopyError> {
    match command {
        Command::Backup { to, overwrite } => {
            // A running stack is not disturbed.
            let copied = backup(&data_dir.join(DATABASE_FILE), to, *overwrite)?;
            let mut text = format!(
                "Backed up {} to {}: {}.",
                data_dir.display(),
                to.display(),
                contents(&copied)
            );
            let key = data_dir.join(MASTER_KEY_FILE);
            if key.exists() {
                let _ = write!(
                    text,
                    " The backup does not contain the master key {}: copy it to another place. \
                     Without it, the secrets of endpoints cannot be opened.",
                    key.display()
                );
            }
            Ok(text)
        }
        Command::Restore { from, overwrite } => {
            let (copied, replaced) = restore(&DataDir::lock(data_dir)?, from, *overwrite)?;
            let mut text = format!(
                "Restored {} to {}: {}.",
                from.display(),
                data_dir.display(),
                contents(&copied)
            );
            if let Some(replaced) = replaced {
                let _ = write!(text, " The previous database is now {}.", replaced.display());
            }
            let key = data_dir.join(MASTER_KEY_FILE);
            if !key.exists() {
                let _ = write!(
                    text,
                    " If MASTER_KEY is not set, put the master key that belongs to the backup at \
                     {} before you start the stack.",
                    key.display()
                );
            }
            Ok(text)
        }
        Command::Recover { to, overwrite } => {
            let recovered = recover(&DataDir::lock(data_dir)?, to, *overwrite)?;
            Ok(recovery_text(&recovered, data_dir, to))
        }
    }
}

fn contents(copied: &Copied) -> String {
    format!(
        "{} webhooks, {} of them unfinished, {} KiB",
        copied.webhooks,
        copied.unfinished,
        copied.bytes / 1024
    )
}

fn recovery_text(recovered: &Recovered, data_dir: &Path, to: &Path) -> String {
    let Recovered { saved, damaged_tables, lost_webhooks, without_payload } = recovered;
    let mut text = format!(
        "Saved the readable part of {} to {}: {}.\n",
        data_dir.display(),
        to.display(),
        contents(saved)
    );
    if damaged_tables.is_empty() {
        text.push_str("All tables were read completely.\n");
    } else {
        let _ = writeln!(text, "Not read completely: {}.", damaged_tables.join(", "));
    }
    if *without_payload > 0 {
        let _ = writeln!(
            text,
            "{without_payload} finished webhooks lost their payload and kept their status."
        );
    }
    let _ = writeln!(text, "{} unfinished or unreadable webhooks are lost.", lost_webhooks.len());
    for task in lost_webhooks {
        let _ = writeln!(text, "  lost: the webhook whose webhook_id ends with {task}");
    }
    let _ = write!(text, "Next: {}", restore_command(data_dir, to));
    text
}

/// The command that replaces a folder's database with this file.
pub(crate) fn restore_command(data_dir: &Path, from: &Path) -> String {
    format!(
        "{} restore --data-dir {} --from {} --overwrite",
        program(),
        quoted(data_dir),
        quoted(from)
    )
}

/// The command that saves the readable part of a folder's database, and the file that it creates.
pub(crate) fn recover_command(data_dir: &Path) -> (String, PathBuf) {
    let file = data_dir.join("recovered.db");
    (format!("{} recover --data-dir {} --to {}", program(), quoted(data_dir), quoted(&file)), file)
}

/// The path of this program for a shell: `local` alone is a keyword of the shell.
fn program() -> String {
    let called =
        std::env::args_os().next().map(PathBuf::from).filter(|path| path.components().count() > 1);
    let path = called.or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| "./local".into());
    quoted(&path)
}

/// The path, quoted for a shell where necessary.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = text.chars().all(|char| char.is_ascii_alphanumeric() || "/._-+".contains(char));
    if is_plain { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
