//! Between the agents and the gateways, whole message by whole message: delays, repeats, lets others overtake, and loses.
//!
//! A connection never loses a message and delivers the next: so what is lost takes the connection with it. Within one lane (reports and
//! their acknowledgements; the pieces of logs) order is kept, as TCP keeps it; between the lanes it is not.

use anyhow::Context as _;
use futures::{SinkExt as _, StreamExt as _};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_tungstenite::{
    accept_hdr_async, connect_async,
    tungstenite::{
        Message,
        client::IntoClientRequest as _,
        handshake::server::{Request, Response},
    },
};

/// What was done so far.
#[derive(Default)]
pub struct Deeds {
    pub passed: AtomicU64,
    pub delayed: AtomicU64,
    pub repeated: AtomicU64,
    pub lost: AtomicU64,
}

pub struct WsProxy {
    pub port: u16,
    pub deeds: Arc<Deeds>,
    active: watch::Sender<bool>,
    _serving: JoinSet<()>,
}

impl WsProxy {
    pub async fn start(seed: u64, gateways: &[u16]) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("0.0.0.0", 0)).await.context("listening in the gateways' stead")?;
        let port = listener.local_addr()?.port();
        let (active, is_active) = watch::channel(false);
        let (deeds, gateways) = (Arc::<Deeds>::default(), gateways.to_vec());
        let did = deeds.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut lines = JoinSet::new();
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else { continue };
                // One more line, one more stream of chances: the same seed gives the same faults to the same line.
                let dice = ChaCha8Rng::seed_from_u64(seed ^ (number as u64) << 16);
                let gateway = gateways[number % gateways.len()];
                let (deeds, active) = (did.clone(), is_active.clone());
                lines.spawn(async move { drop(carry(stream, gateway, dice, deeds, active).await) });
            }
        });
        Ok(Self { port, deeds, active, _serving: serving })
    }

    pub fn misbehave(&self, yes: bool) {
        self.active.send_replace(yes);
    }
}

async fn carry(
    near: TcpStream,
    gateway: u16,
    dice: ChaCha8Rng,
    deeds: Arc<Deeds>,
    active: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut asked = format!("ws://127.0.0.1:{gateway}/").into_client_request()?;
    let (mut path, mut headers) = (String::new(), Vec::new());
    #[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
    let look = |request: &Request, mut response: Response| {
        path = request.uri().path().to_owned();
        for name in ["authorization", "sec-websocket-protocol"] {
            if let Some(value) = request.headers().get(name) {
                headers.push((name, value.clone()));
            }
        }
        if let Some(protocol) = request.headers().get("sec-websocket-protocol") {
            response.headers_mut().insert("sec-websocket-protocol", protocol.clone());
        }
        Ok(response)
    };
    let near = accept_hdr_async(near, look).await?;
    *asked.uri_mut() = format!("ws://127.0.0.1:{gateway}{path}").parse()?;
    for (name, value) in headers {
        asked.headers_mut().insert(name, value);
    }
    let (far, _) = connect_async(asked).await?;
    let ((near_out, near_in), (far_out, far_in)) = (near.split(), far.split());
    let mut other = ChaCha8Rng::seed_from_u64(dice.get_word_pos() as u64 + 1);
    let both = (
        lane(near_in, far_out, dice, &deeds, &active),
        lane(far_in, near_out, ChaCha8Rng::seed_from_u64(other.random()), &deeds, &active),
    );
    tokio::select! {
        ended = both.0 => ended,
        ended = both.1 => ended,
    }
}

async fn lane<I, O>(
    mut from: I,
    mut to: O,
    mut dice: ChaCha8Rng,
    deeds: &Deeds,
    active: &watch::Receiver<bool>,
) -> anyhow::Result<()>
where
    I: futures::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
    O: futures::Sink<Message, Error = tokio_tungstenite::tungstenite::Error> + Unpin,
{
    // Text and bytes wait in lines of their own, so a delayed one is overtaken by the other kind.
    let (text, mut texts) = mpsc::unbounded_channel::<(Message, Duration)>();
    let (bytes, mut binaries) = mpsc::unbounded_channel::<(Message, Duration)>();
    let (ready, mut outgoing) = mpsc::unbounded_channel();
    let late = ready.clone();
    let hold_texts = async move {
        while let Some((message, delay)) = texts.recv().await {
            tokio::time::sleep(delay).await;
            if ready.send(message).is_err() {
                return;
            }
        }
    };
    let hold_binaries = async move {
        while let Some((message, delay)) = binaries.recv().await {
            tokio::time::sleep(delay).await;
            if late.send(message).is_err() {
                return;
            }
        }
    };
    let read = async {
        while let Some(message) = from.next().await {
            let message = message?;
            deeds.passed.fetch_add(1, Ordering::Relaxed);
            let lane = if message.is_binary() { &bytes } else { &text };
            if !*active.borrow() || !(message.is_binary() || message.is_text()) {
                lane.send((message, Duration::ZERO))?;
                continue;
            }
            if dice.random_bool(0.01) {
                deeds.lost.fetch_add(1, Ordering::Relaxed);
                anyhow::bail!("lost, and the connection with it");
            }
            let delay = if dice.random_bool(0.1) {
                deeds.delayed.fetch_add(1, Ordering::Relaxed);
                Duration::from_millis(dice.random_range(1..500))
            } else {
                Duration::ZERO
            };
            if dice.random_bool(0.1) {
                deeds.repeated.fetch_add(1, Ordering::Relaxed);
                lane.send((message.clone(), delay))?;
            }
            lane.send((message, delay))?;
        }
        Ok(())
    };
    let write = async {
        while let Some(message) = outgoing.recv().await {
            to.send(message).await?;
        }
        Ok(())
    };
    tokio::select! {
        ended = read => ended,
        ended = write => ended,
        () = async { tokio::join!(hold_texts, hold_binaries); } => Ok(()),
    }
}
