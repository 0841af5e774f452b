//! A client that is not read from for a while, or no more.

use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Line;
use crate::proxy::connection::ClientFault;

/// Between two looks at a client that is not read from: nothing else tells that it has gone.
const PAUSE_STEP: Duration = Duration::from_secs(1);

impl Line {
    /// The server does not take what it has been sent: nothing more is read. The client may go away
    /// meanwhile, which must not be hidden by what it has sent before.
    pub(super) fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_tunnel = self.connection.is_tunnel();
        if self.transport.is_broken(cx) {
            if !is_tunnel {
                self.connection.fault(ClientFault::Gone);
            }
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let now = Instant::now();
        let end = if is_tunnel {
            let waiting = self.connection.backlog().bytes();
            if std::mem::replace(&mut self.waiting, waiting) != waiting {
                self.progress = now;
            }
            // Of one who has ended its direction nobody knows whether it is still there.
            let most = if self.at_end { self.patience.send } else { self.patience.upgrade };
            let silence = most.min(self.patience.upgrade);
            Some((self.progress + silence, ClientFault::Idle))
        } else {
            // It is not the client who is waited for.
            self.sending.moved(0, || now);
            self.connection.deadline().map(|end| (end, ClientFault::Deadline))
        };
        let look = now + PAUSE_STEP;
        if self.read_alarm.poll(cx, end.map_or(look, |(end, _)| end.min(look))).is_ready()
            && let Some((_, fault)) = end
        {
            self.connection.fault(fault);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }

    /// The client has ended its direction of a tunnel. The engine would end the other one as well if
    /// it heard of it, so the server is told behind its back, and ends the tunnel when it likes.
    pub(super) fn poll_half(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.backlog().end(self.tunnelled) {
            // The other half of the engine's work is to look.
            cx.waker().wake_by_ref();
        }
        self.poll_pause(cx)
    }
}
