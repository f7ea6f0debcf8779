//! A file that lines are added to by a thread of its own: no call waits for a disk.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// How many batches of lines may wait for the disk; beyond it they are dropped and the loss is logged.
const WAITING_MAX: usize = 1024;

/// Adds lines to a file.
#[derive(Debug)]
pub struct RecordFile {
    lines: Option<SyncSender<Vec<String>>>,
    writer: Option<JoinHandle<()>>,
    lost: u64,
}

impl RecordFile {
    /// Opens the file for adding, with the folder that it is in.
    ///
    /// # Errors
    ///
    /// What the system says when it cannot be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let (lines, received) = sync_channel(WAITING_MAX);
        let path = path.to_owned();
        let writer = std::thread::Builder::new()
            .name("records".to_owned())
            .spawn(move || write(file, &path, &received))?;
        Ok(Self {
            lines: Some(lines),
            writer: Some(writer),
            lost: 0,
        })
    }

    /// Hands lines to the thread.
    pub fn add(&mut self, lines: Vec<String>) {
        let (Some(sender), false) = (&self.lines, lines.is_empty()) else {
            return;
        };
        let count = lines.len() as u64;
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = sender.try_send(lines) {
            self.lost += count;
            tracing::warn!(lost = self.lost, "call records lost: the disk is too slow");
        }
    }
}

/// Waits until everything is written.
impl Drop for RecordFile {
    fn drop(&mut self) {
        self.lines = None;
        let ended = self.writer.take().map(JoinHandle::join);
        if let Some(Err(_)) = ended {
            tracing::error!("the thread that writes call records panicked");
        }
    }
}

fn write(file: File, path: &Path, batches: &Receiver<Vec<String>>) {
    let mut file = BufWriter::new(file);
    let mut failing = false;
    while let Ok(lines) = batches.recv() {
        let mut write_all = || {
            for line in &lines {
                writeln!(file, "{line}")?;
            }
            file.flush()
        };
        match write_all() {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(path = %path.display(), %error, "call records cannot be written");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_added_behind_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("calls.jsonl");
        for line in ["one", "two"] {
            let mut file = RecordFile::open(&path).unwrap();
            file.add(vec![line.to_owned()]);
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), "one\ntwo\n");
    }
}
