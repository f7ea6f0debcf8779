//! A file that lines are added to by a thread of its own: no call waits for a disk.
//!
//! What cannot be written, because the disk is full or away, waits and is tried again; what finds no
//! room to wait is lost, and counted.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// How many batches of lines may wait for the thread; beyond it they are lost.
const WAITING_MAX: usize = 1024;
/// How many lines may wait for a file that cannot be written; beyond it the oldest are lost.
const UNWRITTEN_MAX: usize = 65_536;
/// How often a file that cannot be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Adds lines to a file.
#[derive(Debug)]
pub struct RecordFile {
    lines: Option<SyncSender<Vec<String>>>,
    writer: Option<JoinHandle<()>>,
    state: Arc<State>,
}

/// How it stands with the file.
#[derive(Debug, Default)]
struct State {
    /// Lines lost since that was last asked.
    lost: AtomicU64,
    /// Why lines are not written, while they are not.
    trouble: watch::Sender<Option<String>>,
}

impl RecordFile {
    /// Opens the file for adding, with the folder that it is in.
    ///
    /// # Errors
    ///
    /// What the system says when it cannot be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        let state = Arc::new(State::default());
        let writer = Writer {
            path: path.to_owned(),
            file: Some(open(path)?),
            unwritten: VecDeque::new(),
            failing: None,
            state: state.clone(),
        };
        let (lines, received) = sync_channel(WAITING_MAX);
        let writer = std::thread::Builder::new()
            .name("records".to_owned())
            .spawn(move || writer.run(&received))?;
        Ok(Self {
            lines: Some(lines),
            writer: Some(writer),
            state,
        })
    }

    /// Hands lines to the thread.
    pub fn add(&mut self, lines: Vec<String>) {
        let (Some(sender), false) = (&self.lines, lines.is_empty()) else {
            return;
        };
        let count = lines.len() as u64;
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = sender.try_send(lines) {
            self.state.lose(count);
            self.state.trouble("the disk is too slow");
            tracing::warn!(lost = count, "call records lost: the disk is too slow");
        }
    }

    /// Returns how many lines were lost since this was last asked.
    pub fn take_lost(&mut self) -> u64 {
        self.state.lost.swap(0, Ordering::Relaxed)
    }

    /// Returns why lines are not written, as it changes; `None` while they are.
    #[must_use]
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.state.trouble.subscribe()
    }
}

/// Waits until everything is written, or has been tried once more.
impl Drop for RecordFile {
    fn drop(&mut self) {
        self.lines = None;
        let ended = self.writer.take().map(JoinHandle::join);
        if let Some(Err(_)) = ended {
            tracing::error!("the thread that writes call records panicked");
        }
    }
}

impl State {
    fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }

    fn trouble(&self, reason: &str) {
        self.trouble.send_if_modified(|trouble| {
            let is_new = trouble.as_deref() != Some(reason);
            *trouble = Some(reason.to_owned());
            is_new
        });
    }

    fn well(&self) {
        self.trouble
            .send_if_modified(|trouble| trouble.take().is_some());
    }
}

/// The thread's side.
struct Writer {
    path: PathBuf,
    /// `None` after a failure, until it is opened again.
    file: Option<File>,
    /// Lines with their ends, the oldest first.
    unwritten: VecDeque<String>,
    failing: Option<Failing>,
    state: Arc<State>,
}

/// A file that cannot be written.
struct Failing {
    retry_at: Instant,
    /// Lines lost since it began.
    lost: u64,
}

impl Writer {
    fn run(mut self, batches: &Receiver<Vec<String>>) {
        loop {
            let received = match &self.failing {
                None => batches.recv().map_err(RecvTimeoutError::from),
                Some(Failing { retry_at, .. }) => {
                    batches.recv_timeout(retry_at.saturating_duration_since(Instant::now()))
                }
            };
            match received {
                Ok(lines) => self
                    .unwritten
                    .extend(lines.into_iter().map(|line| line + "\n")),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let is_due = |failing: &Failing| failing.retry_at <= Instant::now();
            if self.failing.as_ref().is_none_or(is_due) {
                self.write();
            }
            self.shed();
        }
        self.write();
        if !self.unwritten.is_empty() {
            let lost = self.unwritten.len();
            tracing::error!(path = %self.path.display(), lost, "call records lost: they could not be written before the end");
        }
    }

    /// Writes what waits, or as much of it as can be.
    fn write(&mut self) {
        match self.try_write() {
            Ok(()) => {
                if let Some(Failing { lost, .. }) = self.failing.take() {
                    tracing::info!(path = %self.path.display(), lost, "call records are written again");
                }
                self.state.well();
            }
            Err(error) => {
                // What stands at this path may be another file, or in another place, when it can be written.
                self.file = None;
                let reason = format!("{} cannot be written: {error}", self.path.display());
                self.state.trouble(&reason);
                let lost = match &self.failing {
                    Some(failing) => failing.lost,
                    None => {
                        tracing::warn!(path = %self.path.display(), %error, "call records cannot be written, and wait");
                        0
                    }
                };
                let retry_at = Instant::now() + RETRY;
                self.failing = Some(Failing { retry_at, lost });
            }
        }
    }

    fn try_write(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(&self.path)?),
        };
        while let Some(line) = self.unwritten.front() {
            file.write_all(line.as_bytes())?;
            self.unwritten.pop_front();
        }
        Ok(())
    }

    /// Loses the oldest lines beyond those that may wait.
    fn shed(&mut self) {
        let count = self.unwritten.len().saturating_sub(UNWRITTEN_MAX);
        if count == 0 {
            return;
        }
        self.unwritten.drain(..count);
        let count = count as u64;
        self.state.lose(count);
        if let Some(failing) = &mut self.failing {
            if failing.lost == 0 {
                tracing::warn!(path = %self.path.display(), "call records lost: too many wait for the file");
            }
            failing.lost += count;
        }
    }
}

/// Opens a file for adding, with the folder that it is in. A line that was cut short, by a full disk or
/// with the process, gets its end, so that the next one stands by itself.
fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    if file.metadata()?.is_file() && last_byte(path).is_ok_and(|byte| byte != b'\n') {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// Returns the last byte of a file; an error when it is empty or cannot be read.
fn last_byte(path: &Path) -> io::Result<u8> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut byte = [0];
    file.read_exact(&mut byte)?;
    Ok(byte[0])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// How long a test waits for what must come.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn lines(numbers: std::ops::Range<usize>) -> Vec<String> {
        numbers.map(|number| number.to_string()).collect()
    }

    /// Waits until the file cannot be written, or can.
    fn wait(file: &RecordFile, in_trouble: bool) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let trouble = file.trouble().borrow().clone();
            if trouble.is_some() == in_trouble {
                return trouble;
            }
            assert!(Instant::now() < deadline, "{trouble:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A path at which the disk is full until a file is put there.
    struct Full {
        folder: tempfile::TempDir,
    }

    impl Full {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            symlink("/dev/full", folder.path().join("calls.jsonl")).unwrap();
            Self { folder }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("calls.jsonl")
        }

        fn put(&self, content: &str) {
            let new = self.folder.path().join("new");
            std::fs::write(&new, content).unwrap();
            std::fs::rename(new, self.path()).unwrap();
        }

        fn written(&self) -> String {
            std::fs::read_to_string(self.path()).unwrap()
        }
    }

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

    #[test]
    fn lines_wait_in_order_while_the_disk_is_full_and_are_written_when_it_is_not() {
        let full = Full::new();
        let mut file = RecordFile::open(&full.path()).unwrap();
        assert_eq!(wait(&file, false), None);
        file.add(lines(0..3));
        let trouble = wait(&file, true).unwrap();
        assert!(
            trouble.contains("calls.jsonl cannot be written: No space left"),
            "{trouble}"
        );
        file.add(lines(3..5));
        full.put("");
        wait(&file, false);
        file.add(lines(5..6));
        assert_eq!(file.take_lost(), 0);
        drop(file);
        assert_eq!(full.written(), "0\n1\n2\n3\n4\n5\n");
    }

    #[test]
    fn the_end_tries_once_more() {
        let full = Full::new();
        let mut file = RecordFile::open(&full.path()).unwrap();
        file.add(lines(0..3));
        wait(&file, true);
        full.put("");
        drop(file);
        assert_eq!(full.written(), "0\n1\n2\n");
    }

    #[test]
    fn a_line_that_was_cut_short_does_not_garble_the_next() {
        let full = Full::new();
        let mut file = RecordFile::open(&full.path()).unwrap();
        file.add(lines(0..1));
        wait(&file, true);
        full.put("whole\ncut sh");
        drop(file);
        assert_eq!(full.written(), "whole\ncut sh\n0\n");
        // Nor is it what a process finds that its predecessor left.
        full.put("cut sh");
        RecordFile::open(&full.path()).unwrap().add(lines(1..2));
        assert_eq!(full.written(), "cut sh\n1\n");
    }

    #[test]
    fn the_oldest_are_lost_beyond_those_that_may_wait_and_counted() {
        let full = Full::new();
        let mut file = RecordFile::open(&full.path()).unwrap();
        file.add(lines(0..10));
        wait(&file, true);
        file.add(lines(10..UNWRITTEN_MAX + 3));
        file.add(lines(UNWRITTEN_MAX + 3..UNWRITTEN_MAX + 5));
        let deadline = Instant::now() + PATIENCE;
        let mut lost = 0;
        while lost < 5 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            lost += file.take_lost();
        }
        full.put("");
        wait(&file, false);
        lost += file.take_lost();
        assert_eq!(lost, 5);
        drop(file);
        let written = full.written();
        let written: Vec<_> = written.lines().collect();
        assert_eq!(written, lines(5..UNWRITTEN_MAX + 5));
    }
}
