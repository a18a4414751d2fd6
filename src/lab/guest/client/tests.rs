//! What a client makes of servers that do not keep to the protocol.

use proptest::prelude::{any, prop};
use proptest::{prop_assert, proptest};

use super::*;
use crate::lab::nbd::{TRANSMISSION_FLAGS, errno, reply_header};

/// A server that says what it was told to say, whatever it hears.
struct Script {
    says: io::Cursor<Vec<u8>>,
}

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.says.read(buffer)
    }
}

impl Write for Script {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connect(says: Vec<u8>) -> Result<Client, Error> {
    let says = io::Cursor::new(says);
    Client::negotiate(Box::new(Script { says }), "vm/scsi:0:0")
}

fn greeting() -> Vec<u8> {
    let mut says = MAGIC.to_be_bytes().to_vec();
    says.extend(OPTION_MAGIC.to_be_bytes());
    says.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    says
}

fn answer(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut says = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    says.extend(option::GO.to_be_bytes());
    says.extend(kind.to_be_bytes());
    says.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    says.extend(data);
    says
}

/// The handshake of an honest server with an export of `size` bytes.
fn handshake(size: u64) -> Vec<u8> {
    let mut information = info::EXPORT.to_be_bytes().to_vec();
    information.extend(size.to_be_bytes());
    information.extend(TRANSMISSION_FLAGS.to_be_bytes());
    let replies = [answer(reply::INFO, &information), answer(reply::ACK, &[])];
    [greeting(), replies.concat()].concat()
}

#[test]
fn an_honest_server_is_understood() {
    let mut says = handshake(4096);
    says.extend(reply_header(1, 0));
    says.extend([7; 512]);
    says.extend(reply_header(2, errno::NO_SPACE));
    says.extend(reply_header(3, 0));
    let mut client = connect(says).unwrap();
    assert_eq!(client.size(), 4096);
    let mut buffer = [0; 512];
    client.read(0, &mut buffer).unwrap();
    assert_eq!(buffer, [7; 512]);
    let failed = client.write(0, &buffer);
    assert!(matches!(failed, Err(Error::Failed { errno, .. }) if errno == errno::NO_SPACE));
    client.flush().unwrap();
}

#[test]
fn a_refusal_is_told_in_the_servers_words() {
    let says = [greeting(), answer(reply::POLICY, b"the machine is Off")].concat();
    let refused = connect(says).err().unwrap();
    assert!(
        refused.to_string().contains("the machine is Off"),
        "{refused}"
    );
}

#[test]
fn a_request_beyond_the_disk_is_not_sent() {
    let mut client = connect(handshake(4096)).unwrap();
    for (offset, length) in [(4096, 1), (1, 4096), (u64::MAX, 2)] {
        let refused = client.write(offset, &vec![0; length]);
        assert!(matches!(refused, Err(Error::Beyond { .. })));
    }
}

#[test]
fn a_server_that_does_not_keep_to_the_protocol_is_left() {
    let mut too_long = answer(reply::INFO, &[]);
    let at = too_long.len() - 4;
    too_long[at..].copy_from_slice(&u32::MAX.to_be_bytes());
    let endless = answer(reply::INFO, &[]).repeat(REPLIES_MAX + 1);
    let mut old = greeting();
    old[17] = 0;
    for says in [
        old,
        [greeting(), too_long].concat(),
        [greeting(), endless].concat(),
        [greeting(), answer(reply::ACK, &[])].concat(),
        [greeting(), answer(reply::SERVER, &[])].concat(),
    ] {
        assert!(matches!(connect(says), Err(Error::Protocol { .. })));
    }
    for head in [reply_header(9, 0), [0; REPLY_HEADER]] {
        let mut client = connect([handshake(4096), head.to_vec()].concat()).unwrap();
        assert!(matches!(client.flush(), Err(Error::Protocol { .. })));
    }
}

proptest! {
    #[test]
    fn no_server_makes_it_panic(
        honest in 0_usize..80,
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut says = handshake(4096);
        says.truncate(honest);
        says.extend(noise);
        if let Ok(mut client) = connect(says) {
            let mut buffer = [0; 512];
            while client.read(0, &mut buffer).is_ok() {}
            prop_assert!(client.flush().is_err());
        }
    }
}
