//! Lines between nodes and gateways. As TCP: in order, and what is lost is a suffix, lost with the line.

use crate::{
    Ms,
    fakes::store::SessionKey,
    world::{Event, World},
};
use protocol::{Frame, FromNode, LogFrame, ToNode};
use std::collections::VecDeque;

pub(crate) type LineId = u64;

#[derive(Clone)]
pub(crate) enum Up {
    Control { seq: u64, message: FromNode },
    Log(LogFrame),
}

pub(crate) struct Line {
    pub(crate) node: usize,
    pub(crate) node_run: u64,
    pub(crate) gateway: usize,
    pub(crate) gateway_run: u64,
    pub(crate) key: Option<SessionKey>,
    up: Direction<Up>,
    down: Direction<ToNode>,
    stalled_until: Ms,
    /// An end that was told, or that ended it itself, hears nothing more.
    pub(crate) node_knows: bool,
    pub(crate) gateway_knows: bool,
    pub(crate) is_cut: bool,
}

struct Direction<M> {
    queue: VecDeque<M>,
    last_at: Ms,
}

impl<M> Direction<M> {
    fn new() -> Self {
        Self { queue: VecDeque::new(), last_at: 0 }
    }
}

impl Line {
    pub(crate) fn new(node: usize, node_run: u64, gateway: usize, gateway_run: u64) -> Self {
        Self {
            node,
            node_run,
            gateway,
            gateway_run,
            key: None,
            up: Direction::new(),
            down: Direction::new(),
            stalled_until: 0,
            node_knows: false,
            gateway_knows: false,
            is_cut: false,
        }
    }
}

impl World {
    fn net_latency(&mut self) -> Ms {
        let (low, high) = self.plan.knobs.net_ms;
        self.dice.log_uniform(low, high)
    }

    pub(crate) fn send_up(&mut self, id: LineId, message: Up) {
        let message = if self.plan.knobs.encodes { encoded_up(message) } else { message };
        let at = self.now + self.net_latency();
        let Some(line) = self.lines.get_mut(&id).filter(|line| !line.node_knows) else { return };
        let at = at.max(line.up.last_at);
        line.up.last_at = at;
        line.up.queue.push_back(message);
        self.at(at, Event::Deliver { line: id, up: true });
    }

    pub(crate) fn send_down(&mut self, id: LineId, message: ToNode) {
        let message = if self.plan.knobs.encodes { encoded_down(message) } else { message };
        let at = self.now + self.net_latency();
        let Some(line) = self.lines.get_mut(&id).filter(|line| !line.gateway_knows) else { return };
        let at = at.max(line.down.last_at);
        line.down.last_at = at;
        line.down.queue.push_back(message);
        self.at(at, Event::Deliver { line: id, up: false });
    }

    /// A ticket: whatever is first in that direction arrives, so the order is the sender's.
    pub(crate) fn deliver(&mut self, id: LineId, up: bool) {
        let Some(line) = self.lines.get(&id) else { return };
        let (to, until) = if up {
            let gateway = &self.gateways[line.gateway];
            (
                gateway.process.run == line.gateway_run && gateway.process.is_up && !line.gateway_knows,
                gateway.process.paused_until,
            )
        } else {
            let node = &self.nodes[line.node];
            (node.process.run == line.node_run && node.process.is_up && !line.node_knows, node.paused_until())
        };
        let until = until.max(line.stalled_until);
        if !line.is_cut && to && until > self.now {
            self.at(until, Event::Deliver { line: id, up });
            return;
        }
        let (is_cut, node, gateway) = (line.is_cut, line.node, line.gateway);
        let line = self.lines.get_mut(&id).expect("it was there a moment ago");
        if up {
            let message = line.up.queue.pop_front();
            if let Some(message) = message.filter(|_| to && !is_cut) {
                self.gateway_hears(gateway, id, message);
            }
        } else {
            let message = line.down.queue.pop_front();
            if let Some(message) = message.filter(|_| to && !is_cut) {
                self.node_hears(node, id, message);
            }
        }
    }

    /// Cuts a line. What is still on its way is lost. With `told`, both ends learn it soon; else by the other's silence.
    pub(crate) fn cut(&mut self, id: LineId, told: bool) {
        let Some(line) = self.lines.get_mut(&id).filter(|line| !line.is_cut) else { return };
        line.is_cut = true;
        if told {
            let (a, b) = (self.net_latency(), self.net_latency());
            self.after(a, Event::LineEnded { line: id, at_node: true });
            self.after(b, Event::LineEnded { line: id, at_node: false });
        }
    }

    /// One end closes: the other learns it behind everything that was sent before.
    pub(crate) fn close_from(&mut self, id: LineId, node_side: bool) {
        let latency = self.net_latency();
        let Some(line) = self.lines.get_mut(&id) else { return };
        if node_side {
            line.node_knows = true;
        } else {
            line.gateway_knows = true;
        }
        let last_at = if node_side { line.up.last_at } else { line.down.last_at };
        if !line.is_cut {
            let at = (self.now + latency).max(last_at);
            self.at(at, Event::LineEnded { line: id, at_node: !node_side });
        }
    }

    pub(crate) fn line_ended(&mut self, id: LineId, at_node: bool) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        // Behind what is still stalled in front of it.
        if !line.is_cut && line.stalled_until > self.now {
            let until = line.stalled_until;
            self.at(until, Event::LineEnded { line: id, at_node });
            return;
        }
        let (node, node_run, gateway, gateway_run) = (line.node, line.node_run, line.gateway, line.gateway_run);
        if at_node && !line.node_knows {
            line.node_knows = true;
            line.is_cut = true;
            if self.nodes[node].process.run == node_run {
                self.node_lost_line(node, id);
            }
        } else if !at_node && !line.gateway_knows {
            line.gateway_knows = true;
            line.is_cut = true;
            if self.gateways[gateway].process.run == gateway_run {
                self.session_over(gateway, id, "the line broke");
            }
        }
        if self.lines.get(&id).is_some_and(|line| line.node_knows && line.gateway_knows) {
            self.lines.remove(&id);
        }
    }

    pub(crate) fn stall(&mut self, id: LineId, until: Ms) {
        if let Some(line) = self.lines.get_mut(&id) {
            line.stalled_until = line.stalled_until.max(until);
        }
    }
}

fn encoded_up(message: Up) -> Up {
    match message {
        Up::Control { seq, message } => {
            let text = Frame::numbered(seq, message).encode();
            let frame = Frame::<FromNode>::decode(&text).expect("what is encoded can be decoded");
            Up::Control { seq: frame.seq, message: frame.message }
        }
        Up::Log(frame) => {
            let decoded = LogFrame::decode(&frame.encode()).expect("what is encoded can be decoded");
            assert_eq!(decoded, frame, "a log frame changed on its way");
            Up::Log(decoded)
        }
    }
}

fn encoded_down(message: ToNode) -> ToNode {
    let decoded =
        Frame::<ToNode>::decode(&Frame::new(message.clone()).encode()).expect("what is encoded can be decoded");
    assert_eq!(decoded.message, message, "a message changed on its way");
    decoded.message
}
