//! A stream of answers that ends with a reason, even for a caller who reads nothing for a long time.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::Stream;
use tonic::Status;

use crate::refused::Refused;

/// What is sent, one at a time, and why it ended.
#[derive(Debug)]
pub(super) struct Outgoing<T> {
    answers: mpsc::Receiver<Box<T>>,
    end: Arc<Mutex<Option<Status>>>,
}

/// The other side of an [`Outgoing`].
#[derive(Debug)]
pub(super) struct Answers<T> {
    /// Boxed: a channel keeps places for 32 at a time, however few it takes.
    answers: mpsc::Sender<Box<T>>,
    end: Arc<Mutex<Option<Status>>>,
}

/// Makes both sides.
pub(super) fn outgoing<T>() -> (Answers<T>, Outgoing<T>) {
    let (sender, receiver) = mpsc::channel(1);
    let end = Arc::default();
    let answers = Answers {
        answers: sender,
        end: Arc::clone(&end),
    };
    let outgoing = Outgoing {
        answers: receiver,
        end,
    };
    (answers, outgoing)
}

impl<T> Answers<T> {
    /// Sends as soon as there is room.
    ///
    /// # Errors
    /// When there is none within `patience`, or nobody reads any more.
    pub(super) async fn send(&self, answer: T, patience: Duration) -> Result<(), Status> {
        let sent = timeout(patience, self.answers.send(Box::new(answer))).await;
        let sent = sent.map_err(|_| Refused::SlowWatcher)?;
        sent.map_err(|_| Status::cancelled("the reader is gone"))
    }

    /// Waits until nobody reads any more.
    pub(super) async fn closed(&self) {
        self.answers.closed().await;
    }

    /// Ends the stream: behind what was sent comes this.
    pub(super) fn end(self, status: Status) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        *end = Some(status);
    }
}

impl<T> Stream for Outgoing<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.answers.poll_recv(context) {
            Poll::Ready(Some(answer)) => Poll::Ready(Some(Ok(*answer))),
            Poll::Ready(None) => {
                let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
                Poll::Ready(end.take().map(Err))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
