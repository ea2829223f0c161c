//! TensorBoard's `Event` messages, encoded by hand: the few fields that scalars and texts need.
//!
//! Field numbers are those of tensorboard/compat/proto: event.proto, summary.proto, tensor.proto,
//! tensor_shape.proto. Wire types: 0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes
//! (https://protobuf.dev/programming-guides/encoding/).

/// A protobuf message being written.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn tag(&mut self, field: u64, wire: u64) {
        self.varint_bytes(field << 3 | wire);
    }

    fn varint_bytes(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(mut self, field: u64, value: u64) -> Self {
        self.tag(field, 0);
        self.varint_bytes(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Self {
        self.tag(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.tag(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.tag(field, 2);
        self.varint_bytes(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn message(self, field: u64, value: &Message) -> Self {
        self.bytes(field, &value.0)
    }
}

/// `Event.wall_time` (1) and `Event.step` (2).
fn event(wall_time: f64, step: u64) -> Message {
    Message::default().double(1, wall_time).varint(2, step)
}

/// The first event of every file: `Event.file_version` (3).
pub fn file_version(wall_time: f64) -> Vec<u8> {
    Message::default().double(1, wall_time).bytes(3, b"brain.Event:2").0
}

/// `Event.session_log` (7) with status START: readers forget what earlier files of the folder hold from `step` on,
/// which is how a resumed run replaces the steps that its checkpoint did not have.
pub fn session_start(wall_time: f64, step: u64) -> Vec<u8> {
    event(wall_time, step).message(7, &Message::default().varint(1, 1)).0
}

/// Scalars of one step: `Event.summary` (5) of `Summary.Value`s (1), each a `tag` (1) and a `simple_value` (2).
pub fn scalars(wall_time: f64, step: u64, values: &[(String, f64)]) -> Vec<u8> {
    let summary = values.iter().fold(Message::default(), |summary, (tag, value)| {
        summary.message(1, &Message::default().bytes(1, tag.as_bytes()).float(2, *value as f32))
    });
    event(wall_time, step).message(5, &summary).0
}

/// A text (Markdown), as the `text` plugin reads it: a string tensor of shape [1] with the plugin's name in its
/// metadata.
pub fn text(wall_time: f64, step: u64, tag: &str, text: &str) -> Vec<u8> {
    const DT_STRING: u64 = 7;
    let plugin = Message::default().bytes(1, b"text");
    let metadata = Message::default().message(1, &plugin);
    let shape = Message::default().message(2, &Message::default().varint(1, 1));
    let tensor = Message::default().varint(1, DT_STRING).message(2, &shape).bytes(8, text.as_bytes());
    let value = Message::default().bytes(1, tag.as_bytes()).message(8, &tensor).message(9, &metadata);
    event(wall_time, step).message(5, &Message::default().message(1, &value)).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    // Written by tests/reference/tensorboard_events.py with tensorboard's own protobuf classes (SerializeToString).
    #[test]
    fn messages_are_what_protobuf_writes() {
        let values = [("train/loss".to_string(), 2.5), ("train/loss/qa".to_string(), -0.125)];
        assert_eq!(hex(&file_version(1.5)), GOLDEN[0]);
        assert_eq!(hex(&session_start(1.5, 301)), GOLDEN[1]);
        assert_eq!(hex(&scalars(1.5, 300, &values)), GOLDEN[2]);
        assert_eq!(hex(&text(1.5, 1, "args/text_summary", "a: *b*")), GOLDEN[3]);
    }

    const GOLDEN: [&str; 4] = [
        "09000000000000f83f1a0d627261696e2e4576656e743a32",
        "09000000000000f83f10ad023a020801",
        "09000000000000f83f10ac022a290a110a0a747261696e2f6c6f737315000020400a140a0d747261696e2f6c6f73732f716115000000be",
        "09000000000000f83f10012a310a2f0a11617267732f746578745f73756d6d617279421008071204120208014206613a202a622a4a080a060a0474657874",
    ];
}
