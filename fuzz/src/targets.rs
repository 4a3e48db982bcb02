//! The targets. Each takes any bytes; where they do not suffice for what is to be made of them, nothing is run.

use arbitrary::{Result, Unstructured};
use xdp_lb_common::host::Buffer;
use xdp_lb_common::packet::parse;
use xdp_lb_common::process::{Scratch, Verdict};
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::{FlowKey, Mode};

use crate::check::{Outcome, key, send, send_as_check};
use crate::dissect::{Dissection, dissect};
use crate::world::World;
use crate::{decap, frame};

/// Any frame: what is read of it is what is there.
pub fn parse(bytes: &[u8]) {
    // Its first byte says what the rest is: the frame itself, or what to make one of.
    let frame = match bytes.split_first() {
        Some((0, frame)) => frame.to_vec(),
        Some((_, bytes)) => {
            let mut u = Unstructured::new(bytes);
            let Ok(frame) = World::new(&mut u).and_then(|world| frame::any(&mut u, &world)) else { return };
            frame
        }
        None => return,
    };
    let mut parsed = parse::Parsed::default();
    let packet = Buffer::new(&frame, 7);
    if parse::parse(&packet, &mut parsed).is_err() {
        return;
    }
    let found = dissect(&frame).expect("what is understood is whole");
    let piece = found.piece;
    match parsed.kind {
        parse::Kind::Flow | parse::Kind::FirstFragment => {
            assert_eq!((piece.offset, piece.more), (0, parsed.kind == parse::Kind::FirstFragment));
            let transport = found.transport(&frame).expect("a flow's packet is TCP or UDP");
            assert_eq!(parsed.key, key(&found, &transport));
            assert_eq!(parsed.tcp_flags, transport.flags);
        }
        parse::Kind::LaterFragment => assert_ne!(piece.offset, 0),
        parse::Kind::Icmp => assert!(found.is_icmp()),
    }
    assert!(!piece.is_fragment() || parsed.identification.get() == piece.identification);
    let FlowKey { source, destination, .. } = parsed.key;
    assert_eq!((source, destination), (found.source.into(), found.destination.into()));
    assert_eq!(
        (parsed.l3, parsed.l4, parsed.ip_length as usize, parsed.is_v4),
        (found.l3, found.l4, found.end - found.l3, found.source.is_ipv4())
    );
    assert_eq!((parsed.ttl, parsed.ingress), (found.ttl, 7));
    assert_eq!(parsed.tags.header_length(), found.l3);
}

/// Any frame, with any tables.
pub fn process(bytes: &[u8]) {
    let run = |u: &mut Unstructured<'_>| -> Result<()> {
        let mut world = World::new(u)?;
        for _ in 0..u.int_in_range(0..=3)? {
            world.add_flow(u)?;
        }
        let frame = frame::any(u, &world)?;
        send(&world, &mut Scratch::default(), &frame, u.int_in_range(1..=3)?);
        send_as_check(&world, &mut Scratch::default(), &frame);
        Ok(())
    };
    // An input that is too short is of no interest.
    let _ = run(&mut Unstructured::new(bytes));
}

/// Packets, replies and changes in a row, with the same tables.
pub fn sequence(bytes: &[u8]) {
    let run = |u: &mut Unstructured<'_>| -> Result<()> {
        let mut world = World::new(u)?;
        let mut scratch = Scratch::default();
        let mut frames: Vec<Vec<u8>> = Vec::new();
        for _ in 0..16 {
            match u.int_in_range(0..=4)? {
                0 => world.change(u)?,
                1 if !frames.is_empty() => {
                    // One that came before comes again, mostly in another state of things.
                    let frame = u.choose(&frames)?;
                    send(&world, &mut scratch, frame, u.int_in_range(1..=3)?);
                }
                2 => {
                    let frame = frame::any(u, &world)?;
                    let ingress = u.int_in_range(1..=3)?;
                    for fragment in frame::fragments(u, &frame)? {
                        send(&world, &mut scratch, &fragment, ingress);
                    }
                }
                _ => {
                    let frame = frame::any(u, &world)?;
                    forth_and_back(u, &world, &mut scratch, &frame)?;
                    send_as_check(&world, &mut scratch, &frame);
                    frames.push(frame);
                }
            }
        }
        Ok(())
    };
    let _ = run(&mut Unstructured::new(bytes));
}

/// Any frame at a backend, tunnelled to it or not.
pub fn decap(bytes: &[u8]) {
    let run = |u: &mut Unstructured<'_>| -> Result<()> {
        let gue_port = 6080;
        let mut backend = decap::Backend::open(gue_port);
        if u.ratio(1, 4)? {
            backend.settings.accepts = u.arbitrary()?;
            backend.settings.checks_source = u.int_in_range(0..=1)?;
            backend.is_local = u.arbitrary()?;
            backend.is_allowed = u.arbitrary()?;
        }
        let frame = if u.ratio(1, 8)? {
            let world = World::new(u)?;
            frame::any(u, &world)?
        } else {
            frame::tunnelled(u, gue_port)?
        };
        backend.receive(&frame);
        Ok(())
    };
    let _ = run(&mut Unstructured::new(bytes));
}

/// Sends a packet and, where it is a client's that goes to a backend, the backend's reply: it must come to the client,
/// from the address that the client knows.
fn forth_and_back(
    u: &mut Unstructured<'_>,
    world: &World,
    scratch: &mut Scratch,
    frame: &[u8],
) -> Result<()> {
    let ingress = u.int_in_range(1..=3)?;
    let Some(came) = Ends::of(frame) else {
        send(world, scratch, frame, ingress);
        return Ok(());
    };
    let is_new = world.flows().iter().all(|record| record.key() != came.key);
    let there = send(world, scratch, frame, ingress);
    let Some(service) = world.service_at(&came.key.destination_endpoint()) else { return Ok(()) };
    let is_two_way = service.mode == Mode::FullNat || service.mode == Mode::Nat;
    // A TCP packet in the name of a VIP or a backend is forged: replies to it are not a client's.
    let sender = came.key.source_endpoint();
    let is_forged = world.service_at(&sender).is_some() || world.rule_at(&sender).is_some();
    if !there.is_forwarded() || is_forged || !is_two_way || !world.is_coherent {
        return Ok(());
    }
    let left = Ends::of(&there.bytes).expect("`send` has looked at it");
    let answer_key = FlowKey::new(left.key.destination_endpoint(), left.key.source_endpoint());
    let answer = frame::between(u, answer_key.source_endpoint(), answer_key.destination_endpoint())?;
    let Some(answered) = Ends::of(&answer).filter(|answered| answered.key == answer_key) else {
        return Ok(());
    };
    let back = send(world, scratch, &answer, u.int_in_range(1..=3)?);
    if back.is_forwarded() {
        let back = Ends::of(&back.bytes).expect("`send` has looked at it").key;
        assert_eq!(
            (back.source_endpoint(), back.destination_endpoint()),
            (came.key.destination_endpoint(), came.key.source_endpoint()),
            "a reply comes back to the client from the VIP"
        );
    }
    if service.mode == Mode::FullNat {
        let is_lost = matches!(
            back.verdict,
            Verdict::Drop(Reason::ReplyWithoutFlow) | Verdict::Pass(Reason::NotAReply | Reason::NoService)
        );
        assert!(!is_lost || answered.packet.ttl <= 1, "a reply to full-nat is known: {:?}", back.verdict);
        if back.is_forwarded() && is_new {
            check_way_back(&came.packet, ingress, &back);
        }
    }
    Ok(())
}

/// That a reply leaves the way the client's first packet came.
fn check_way_back(came: &Dissection, ingress: u32, back: &Outcome) {
    let packet = dissect(&back.bytes).expect("`send` has looked at it");
    assert_eq!(packet.tags, came.tags, "with the tags that the client's packet had");
    assert_eq!((packet.destination_mac, packet.source_mac), (came.source_mac, came.destination_mac));
    if let Verdict::Redirect(ifindex) = back.verdict {
        assert_eq!(ifindex, ingress, "through the interface that the client's packet came by");
    }
}

/// A whole TCP or UDP packet.
struct Ends {
    packet: Dissection,
    key: FlowKey,
}

impl Ends {
    fn of(frame: &[u8]) -> Option<Self> {
        let packet = dissect(frame)?;
        let transport = packet.transport(frame)?;
        let key = key(&packet, &transport);
        Some(Self { packet, key })
    }
}
