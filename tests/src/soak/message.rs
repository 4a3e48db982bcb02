//! What flows carry: bytes that only one request of one flow has, so that a lost, foreign or damaged answer is seen.

/// The flow's number and the request's, 8 bytes each, lead a message.
const HEAD: usize = 16;

/// The request with this number of a flow, as long as said, and no shorter than its head.
pub fn message(flow: u64, number: u64, length: usize) -> Vec<u8> {
    let mut bytes = [flow.to_be_bytes(), number.to_be_bytes()].concat();
    let mut rng = fastrand::Rng::with_seed(flow.rotate_left(32) ^ number);
    bytes.resize_with(length.max(HEAD), || rng.u8(..));
    bytes
}

/// The flow and the number that a message's head names.
pub fn head(message: &[u8]) -> Option<(u64, u64)> {
    let (flow, rest) = message.split_first_chunk()?;
    Some((u64::from_be_bytes(*flow), u64::from_be_bytes(*rest.first_chunk()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_their_flow_and_number_and_no_two_are_alike() {
        assert_eq!(head(&message(7, 9, 200)), Some((7, 9)));
        assert_eq!(message(7, 9, 200), message(7, 9, 200));
        assert_ne!(message(7, 9, 200)[HEAD..], message(9, 7, 200)[HEAD..]);
        assert_eq!(message(7, 9, 0).len(), HEAD);
        assert_eq!(head(b"short"), None);
    }
}
