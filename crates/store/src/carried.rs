//! What is begun and must be carried to its end, whoever gives up waiting for it.

use futures::future::BoxFuture;
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// Runs where it is awaited, so that it costs no task and no change of threads. Dropped before its end, it goes on in a task of its
/// own, and what it brings is dropped.
pub(crate) fn to_its_end<T: Send + 'static>(work: BoxFuture<'static, T>) -> impl Future<Output = T> + Send + Unpin {
    Carried(Some(work))
}

struct Carried<T: Send + 'static>(Option<BoxFuture<'static, T>>);

impl<T: Send + 'static> Future for Carried<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some(work) = &mut self.0 else { return Poll::Pending };
        let done = work.as_mut().poll(context);
        if done.is_ready() {
            self.0 = None;
        }
        done
    }
}

impl<T: Send + 'static> Drop for Carried<T> {
    fn drop(&mut self) {
        // Without a runtime nothing can go on; then the process is ending.
        if let (Some(work), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_goes_on_to_its_end() {
        let (go_on, waits) = oneshot::channel::<()>();
        let (tell, done) = oneshot::channel();
        let mut work = to_its_end(
            async move {
                let _ = waits.await;
                let _ = tell.send("done");
            }
            .boxed(),
        );
        assert!((&mut work).now_or_never().is_none(), "it has begun, and waits");
        drop(work);
        go_on.send(()).expect("it waits still");
        assert_eq!(done.await, Ok("done"));
    }
}
