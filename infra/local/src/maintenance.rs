//! `local backup`, `local restore` and `local recover`: what is done with the embedded file beside
//! running on it.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use shared::sqlite::{
    Copied, CopyError, DATABASE_FILE, DataDir, Recovered, backup, recover, restore,
};

use crate::{options::Command, stack::explain};

/// Does it and says so. The exit code is 1 if it could not be done.
pub fn run(command: &Command, data_dir: &Path) -> ExitCode {
    match perform(command, data_dir) {
        Ok(text) => {
            // A closed standard output does not undo what was done.
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
            // A stack may be at work; it is not disturbed.
            let copied = backup(&data_dir.join(DATABASE_FILE), to, *overwrite)?;
            Ok(format!("Backed up {} to {}: {}.", data_dir.display(), to.display(), holds(&copied)))
        }
        Command::Restore { from, overwrite } => {
            let (copied, replaced) = restore(&DataDir::lock(data_dir)?, from, *overwrite)?;
            let mut text = format!(
                "Restored {} to {}: {}.",
                from.display(),
                data_dir.display(),
                holds(&copied)
            );
            if let Some(replaced) = replaced {
                let _ = write!(text, " What was there is now {}.", replaced.display());
            }
            Ok(text)
        }
        Command::Recover { to, overwrite } => {
            let recovered = recover(&DataDir::lock(data_dir)?, to, *overwrite)?;
            Ok(tell(&recovered, data_dir, to))
        }
    }
}

fn holds(copied: &Copied) -> String {
    format!(
        "{} webhooks, {} of them unfinished, {} KiB",
        copied.webhooks,
        copied.unfinished,
        copied.bytes / 1024
    )
}

fn tell(recovered: &Recovered, data_dir: &Path, to: &Path) -> String {
    let Recovered { saved, damaged_tables, lost_webhooks, without_payload } = recovered;
    let mut text = format!(
        "Saved what can be read of {} to {}: {}.\n",
        data_dir.display(),
        to.display(),
        holds(saved)
    );
    if damaged_tables.is_empty() {
        text.push_str("Every table was read to its end.\n");
    } else {
        let _ = writeln!(text, "Not read to the end: {}.", damaged_tables.join(", "));
    }
    if *without_payload > 0 {
        let _ = writeln!(
            text,
            "{without_payload} finished webhooks have lost their payload; their status is kept."
        );
    }
    let _ = writeln!(text, "{} unfinished or unreadable webhooks are lost.", lost_webhooks.len());
    for task in lost_webhooks {
        let _ = writeln!(text, "  lost: a webhook whose webhook_id ends with {task}");
    }
    let _ = write!(text, "Next: {}", restore_command(data_dir, to));
    text
}

/// The command that puts this file in the place of a folder's database.
pub(crate) fn restore_command(data_dir: &Path, from: &Path) -> String {
    format!(
        "{} restore --data-dir {} --from {} --overwrite",
        program(),
        quoted(data_dir),
        quoted(from)
    )
}

/// The command that saves what can be read of a folder's database, and the file that it makes.
pub(crate) fn recover_command(data_dir: &Path) -> (String, PathBuf) {
    let file = data_dir.join("recovered.db");
    (format!("{} recover --data-dir {} --to {}", program(), quoted(data_dir), quoted(&file)), file)
}

/// This program as a shell finds it: `local` alone is a word of the shell's own.
fn program() -> String {
    let called =
        std::env::args_os().next().map(PathBuf::from).filter(|path| path.components().count() > 1);
    let path = called.or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| "./local".into());
    quoted(&path)
}

/// As a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = text.chars().all(|char| char.is_ascii_alphanumeric() || "/._-+".contains(char));
    if is_plain { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
