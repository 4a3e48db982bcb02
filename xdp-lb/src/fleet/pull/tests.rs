use tokio::io::duplex;
use xdp_lb_common::net::Protocol;

use super::super::flow::tests::any_flow;
use super::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

fn secret(byte: u8) -> Secret {
    Secret::new("edge", &[byte; 32])
}

fn end(text: &str) -> Endpoint {
    Endpoint::from_socket(text.parse().unwrap(), Protocol::UDP)
}

fn ring(slots: u32) -> TrackedRing {
    let slot = |number: u32| TrackedSlot {
        number,
        prior: number.is_multiple_of(2).then_some(end("[2001:db8::7]:53")),
        step: match number % 3 {
            0 => SlotStep::Moving(Duration::from_millis(u64::from(number) * 1001)),
            1 => SlotStep::Recorded,
            _ => SlotStep::Unknown,
        },
    };
    TrackedRing { vip: end("192.0.2.1:53").range(), length: 8128, slots: (0..slots).map(slot).collect() }
}

/// A peer that answers one pull with these messages.
async fn peer(stream: tokio::io::DuplexStream, secret: Secret, messages: Vec<Message>) -> Result<Message> {
    let (mut conversation, name) = Conversation::answer(stream, &secret, "b", |name| name == "a").await?;
    assert_eq!(name, "a");
    let asked = conversation.receive().await?;
    for message in &messages {
        conversation.send(message).await?;
    }
    Ok(asked)
}

#[tokio::test]
async fn what_one_side_sends_the_other_gets() {
    let mut runner = TestRunner::deterministic();
    let flows = prop::collection::vec(any_flow(), 300).new_tree(&mut runner).unwrap().current();
    let told = vec![
        Message::Session([3; 16], 77),
        Message::Ring(ring(10)),
        Message::Flows(flows),
        Message::Flows(vec![]),
        Message::End,
    ];
    let (here, there) = duplex(1 << 20);
    let answer = tokio::spawn(peer(there, secret(7), told.clone()));
    let mut conversation = Conversation::begin(here, &secret(7), "a", "b").await.unwrap();
    conversation.send(&Message::Ask(Some([9; 16]))).await.unwrap();
    for message in told {
        assert_eq!(conversation.receive().await.unwrap(), message);
    }
    assert_eq!(answer.await.unwrap().unwrap(), Message::Ask(Some([9; 16])));
}

#[tokio::test]
async fn a_ring_with_many_slots_comes_in_parts() {
    let (here, there) = duplex(1 << 20);
    tokio::spawn(peer(there, secret(7), vec![Message::Ring(ring(2500)), Message::End]));
    let mut conversation = Conversation::begin(here, &secret(7), "a", "b").await.unwrap();
    conversation.send(&Message::Ask(None)).await.unwrap();
    let mut slots = Vec::new();
    while let Message::Ring(part) = conversation.receive().await.unwrap() {
        assert_eq!((part.vip, part.length), (ring(0).vip, 8128));
        slots.extend(part.slots);
    }
    assert_eq!(slots, ring(2500).slots);
}

#[tokio::test]
async fn who_does_not_have_the_secret_hears_nothing_and_is_not_believed() {
    let (here, there) = duplex(1 << 20);
    let answer = tokio::spawn(peer(there, secret(7), vec![Message::End]));
    let mut conversation = Conversation::begin(here, &secret(8), "a", "b").await.unwrap();
    conversation.send(&Message::Ask(None)).await.unwrap();
    let refused = answer.await.unwrap().unwrap_err().to_string();
    assert!(refused.contains("does not have the fleet's secret"), "{refused}");
    assert!(conversation.receive().await.is_err());
}

#[tokio::test]
async fn a_stranger_and_a_later_version_are_refused() {
    for (hello, why) in [
        (&b"XLBP\x01\x01c"[..], "not a node of the fleet"),
        (b"XLBP\x02\x01a", "another protocol or version"),
        (b"GET / ", "another protocol or version"),
    ] {
        let (mut here, there) = duplex(1 << 20);
        here.write_all(hello).await.unwrap();
        let refused = peer(there, secret(7), vec![]).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}

#[tokio::test]
async fn a_frame_that_is_too_long_or_changed_is_refused() {
    for frame in [vec![0xff; 4], [&[0, 0, 0, 17][..], &[0; 17]].concat()] {
        let (here, mut there) = duplex(1 << 20);
        let begun =
            tokio::spawn(async move { Conversation::begin(here, &secret(7), "a", "b").await.unwrap() });
        let mut hello = [0; 6 + 1 + 32];
        there.read_exact(&mut hello).await.unwrap();
        there.write_all(&[1; 32]).await.unwrap();
        there.write_all(&frame).await.unwrap();
        let mut conversation = begun.await.unwrap();
        assert!(conversation.receive().await.is_err());
    }
}

proptest! {
    #[test]
    fn bytes_that_are_no_message_are_refused(bytes in any::<Vec<u8>>()) {
        let _ = Message::read(&bytes);
    }
}
