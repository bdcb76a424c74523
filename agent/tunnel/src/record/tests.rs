use std::future::poll_fn;
use std::task::Poll;

use proptest::prelude::*;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384;
use rustls::{AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, SupportedCipherSuite};
use tokio::net::TcpListener;

use super::open::{IN_A_ROW, Plain};
use super::replay::{HELD_MAX, SUITES, protocol, secrets};
use super::*;

fn both(suite: SupportedCipherSuite) -> (Sealing, Opening) {
    let sealing = Sealing::new(suite, secrets(suite, 1), 0).unwrap();
    (sealing, Opening::new(suite, secrets(suite, 1), 0).unwrap())
}

/// All data that is opened before nothing or an error comes.
fn data(opening: &mut Opening, bytes: &mut [u8]) -> (Vec<u8>, Result<(), Error>) {
    let (mut left, mut data) = (bytes, Vec::new());
    loop {
        match opening.next(&mut left) {
            Ok(Some(plain)) => {
                assert_eq!(plain.kind, ContentType::ApplicationData);
                data.extend_from_slice(plain.bytes);
            }
            Ok(None) => return (data, Ok(())),
            Err(error) => return (data, Err(error)),
        }
    }
}

fn sealed(sealing: &mut Sealing, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    pieces.iter().map(|piece| sealing.record(ContentType::ApplicationData, piece).unwrap()).collect()
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened_wherever_the_bytes_are_cut(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..12),
        cuts in prop::collection::vec(1_usize..900, 1..40),
    ) {
        for suite in SUITES {
            let (mut sealing, mut opening) = both(suite);
            let mut stream: &[u8] = &sealed(&mut sealing, &pieces.iter().map(Vec::as_slice).collect::<Vec<_>>()).concat();
            let (mut partial, mut found, mut cuts) = (Vec::new(), Vec::new(), cuts.iter().cycle());
            while !stream.is_empty() {
                let (now, later) = stream.split_at(*cuts.next().unwrap().min(&stream.len()));
                stream = later;
                partial.extend_from_slice(now);
                let mut left = partial.as_mut_slice();
                while let Some(plain) = opening.next(&mut left).unwrap() {
                    found.extend_from_slice(plain.bytes);
                }
                partial = left.to_vec();
            }
            prop_assert!(partial.is_empty());
            prop_assert_eq!(found, pieces.concat());
        }
    }

    #[test]
    fn a_changed_bit_is_an_error_or_a_record_that_never_ends(at in 0_usize..124, bit in 0_u8..8) {
        let (mut sealing, mut opening) = both(TLS13_AES_256_GCM_SHA384);
        let mut bytes = sealed(&mut sealing, &[&[1; 40], &[2; 40]]).concat();
        prop_assert_eq!(bytes.len(), 124);
        // The version counts for nothing and is not authenticated as it came.
        prop_assume!(!matches!(at % 62, 1 | 2));
        bytes[at] ^= 1 << bit;
        let (found, result) = data(&mut opening, &mut bytes);
        prop_assert!(found.len() < 80, "{found:?}");
        prop_assert!([1_u8; 40].starts_with(&found) || found == [1; 40]);
        if result.is_ok() {
            prop_assert!(matches!(at % 62, 3 | 4), "only a length makes it wait, not byte {}", at);
        }
    }

    #[test]
    fn whatever_a_peer_with_the_keys_says_is_bounded(
        says in prop::collection::vec(
            (prop_oneof![4 => Just(22_u8), 1 => 0_u8..30], prop_oneof![Just(4_u8), Just(24)], 0_u8..3, any::<u16>(), 0_usize..16_000),
            0..60,
        ),
    ) {
        let (mut sealing, mut opening) = both(TLS13_AES_256_GCM_SHA384);
        let mut messages = 0;
        'says: for (kind, message, high, low, length) in says {
            let [middle, low] = low.to_be_bytes();
            let mut bytes = vec![message, high / 2, middle, low];
            bytes.resize(4 + length, message);
            let mut record = sealing.record(ContentType::from(kind), &bytes).unwrap();
            let mut left = record.as_mut_slice();
            let Ok(opened) = opening.next(&mut left) else { break };
            if let Some(Plain { kind: ContentType::Handshake, bytes }) = opened {
                if opening.join(bytes).is_err() {
                    break;
                }
                loop {
                    match opening.message() {
                        Ok(Some(_)) => messages += 1,
                        Ok(None) => break,
                        Err(_) => break 'says,
                    }
                }
            } else {
                messages = 0;
            }
            prop_assert!(opening.held() <= HELD_MAX, "{}", opening.held());
            prop_assert!(messages <= IN_A_ROW);
        }
    }
}

#[test]
fn a_record_that_is_left_out_repeated_or_in_another_place_is_none() {
    for suite in SUITES {
        let (mut sealing, _) = both(suite);
        let [one, two, three] = sealed(&mut sealing, &[b"one", b"two", b"three"]).try_into().unwrap();
        for (order, good) in
            [([&one, &one], "one"), ([&two, &one], ""), ([&one, &three], "one"), ([&one, &two], "onetwo")]
        {
            let (_, mut opening) = both(suite);
            let (found, result) = data(&mut opening, &mut order.map(Vec::as_slice).concat());
            assert_eq!(String::from_utf8_lossy(&found), good);
            assert_eq!(result.is_err(), good != "onetwo");
        }
    }
}

#[test]
fn nothing_is_taken_in_the_clear_and_no_record_is_too_long() {
    let (_, mut opening) = both(TLS13_AES_256_GCM_SHA384);
    for kind in [20, 21, 22, 24, 0, 255] {
        let (_, result) = data(&mut opening, &mut [kind, 3, 3, 0, 2, 1, 0]);
        assert!(matches!(result, Err(Error::InappropriateMessage { .. })), "{kind}: {result:?}");
    }
    // Known from the header alone, so nothing is waited for.
    let (_, result) = data(&mut opening, &mut [23, 3, 3, 0x41, 1]);
    assert_eq!(result, Err(Error::PeerSentOversizedRecord));
    let (_, result) = data(&mut opening, &mut [23, 3, 3, 0, 0]);
    assert_eq!(result, Err(Error::DecryptError));
    assert_eq!(data(&mut opening, &mut [23, 3, 3, 0x41]).1, Ok(()));
}

#[test]
fn alerts_are_ends_or_errors_and_nothing_counts_after_a_goodbye() {
    let say = |alerts: &[&[u8]]| {
        let (mut sealing, mut opening) = both(TLS13_AES_256_GCM_SHA384);
        let mut bytes = Vec::new();
        for alert in alerts {
            bytes.extend(sealing.record(ContentType::Alert, alert).unwrap());
        }
        bytes.extend(sealing.record(ContentType::ApplicationData, b"more").unwrap());
        let (found, result) = data(&mut opening, &mut bytes);
        (String::from_utf8(found).unwrap(), result, opening.is_closed())
    };
    assert_eq!(say(&[&[1, 0]]), (String::new(), Ok(()), true));
    assert_eq!(say(&[&[1, 90]]), ("more".to_owned(), Ok(()), false));
    let unknown_ca = Err(Error::AlertReceived(AlertDescription::UnknownCA));
    assert_eq!(say(&[&[2, 48]]), (String::new(), unknown_ca, false));
    assert!(say(&[&[2]]).1.is_err());
    assert!(say(&[&[1_u8, 90][..]; 70]).1.is_err());
}

#[test]
fn handshake_messages_are_joined_bounded_and_not_interrupted() {
    let (mut sealing, mut opening) = both(TLS13_AES_256_GCM_SHA384);
    // Two tickets in three records.
    let tickets = [4, 0, 0, 3, 1, 2, 3, 4, 0, 0, 2, 8, 9];
    for part in [&tickets[..2], &tickets[2..8], &tickets[8..]] {
        opening.join(part).unwrap();
    }
    let mut bodies = Vec::new();
    while let Some((kind, body)) = opening.message().unwrap() {
        assert_eq!(kind, HandshakeType::NewSessionTicket);
        bodies.push(body);
    }
    assert_eq!(bodies, [vec![1, 2, 3], vec![8, 9]]);
    assert!(opening.is_between_messages());

    opening.join(&[4, 1, 0, 0]).unwrap();
    assert_eq!(opening.message(), Err(InvalidMessage::HandshakePayloadTooLarge.into()));

    let (_, mut opening) = both(TLS13_AES_256_GCM_SHA384);
    opening.join(&[4, 0, 0, 3]).unwrap();
    let mut record = sealing.record(ContentType::ApplicationData, b"between").unwrap();
    assert!(matches!(data(&mut opening, &mut record).1, Err(Error::InappropriateMessage { .. })));

    let (_, mut opening) = both(TLS13_AES_256_GCM_SHA384);
    let refused = (0..).find(|_| opening.join(&[24]).is_err());
    assert_eq!(refused, Some(IN_A_ROW));

    // However many a record has.
    let (_, mut opening) = both(TLS13_AES_256_GCM_SHA384);
    opening.join(&[4, 0, 0, 0].repeat(4_000)).unwrap();
    let taken = (0..).find(|_| opening.message().is_err());
    assert_eq!(taken, Some(IN_A_ROW - 1));

    for kind in [ContentType::Handshake, ContentType::Alert] {
        let (mut sealing, mut opening) = both(TLS13_AES_256_GCM_SHA384);
        let mut record = sealing.record(kind, &[]).unwrap();
        assert!(matches!(data(&mut opening, &mut record).1, Err(Error::InappropriateMessage { .. })));
    }
}

async fn records() -> [Records; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    // Each direction has keys of its own.
    [(near, 1, 101), (far, 101, 1)].map(|(socket, sends, receives)| {
        let protocol = protocol(TLS13_AES_256_GCM_SHA384, sends, receives, sends == 1).unwrap();
        Records { socket, protocol, partial: Vec::new(), unsent: 0, sent: false, kernel: Kernel::none() }
    })
}

/// Reads until so many bytes of data are there, or an error.
async fn receive(records: &mut Records, count: usize) -> Result<Vec<u8>, RecordError> {
    let (mut buffer, mut found) = (vec![0; ROOM], Vec::new());
    while found.len() < count {
        let filled = poll_fn(|cx| records.poll_read(cx, &mut buffer)).await?;
        let mut left = &mut buffer[..filled];
        while let Some(plain) = records.open(&mut left)? {
            found.extend_from_slice(plain);
        }
        records.keep(left);
    }
    Ok(found)
}

async fn send(records: &mut Records, bytes: &[u8]) {
    records.write(bytes).unwrap();
    poll_fn(|cx| records.poll_flush(cx)).await.unwrap();
}

#[tokio::test]
async fn keys_are_renewed_before_they_are_used_up() {
    let [mut near, mut far] = records().await;
    let sent: Vec<u8> = (0..200_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    for _ in 0..3 {
        // Thirteen records, of which three and the announcement are sealed with one key; the next has the suite's limit.
        let (limit, used) = (near.protocol.sealing.used() + 4, near.protocol.sealing.used());
        near.protocol.sealing.set_limit(limit);
        let (_, received) = tokio::join!(send(&mut near, &sent), receive(&mut far, sent.len()));
        assert_eq!(received.unwrap(), sent);
        assert_eq!(near.protocol.sealing.used(), 10, "{used}");
    }
}

/// Announces new keys and asks for the other end's.
fn ask(records: &mut Records) {
    records.protocol.seal(ContentType::Handshake, &[24, 0, 0, 1, 1]).unwrap();
    let secrets = records.protocol.rekey.next_sending().unwrap();
    records.protocol.sealing = Sealing::new(records.protocol.suite, secrets, 0).unwrap();
}

#[tokio::test]
async fn whoever_is_asked_for_new_keys_takes_them_once_before_his_next_data() {
    let [mut near, mut far] = records().await;
    ask(&mut far);
    ask(&mut far);
    send(&mut far, b"asked").await;
    assert_eq!(receive(&mut near, 5).await.unwrap(), b"asked");
    // Nothing to say, so nothing is said yet.
    assert!(near.protocol.owes_keys && near.protocol.waiting.is_empty());
    near.write(b"answered").unwrap();
    assert!(!near.protocol.owes_keys);
    assert_eq!(near.protocol.waiting.len(), 27 + 30, "one announcement and the data");
    poll_fn(|cx| near.poll_flush(cx)).await.unwrap();
    assert_eq!(receive(&mut far, 8).await.unwrap(), b"answered");

    // Both ask at once.
    ask(&mut near);
    ask(&mut far);
    send(&mut near, b"near").await;
    send(&mut far, b"far").await;
    assert_eq!(receive(&mut near, 3).await.unwrap(), b"far");
    assert_eq!(receive(&mut far, 4).await.unwrap(), b"near");
    send(&mut near, b"and").await;
    send(&mut far, b"on").await;
    assert_eq!(receive(&mut far, 3).await.unwrap(), b"and");
    assert_eq!(receive(&mut near, 2).await.unwrap(), b"on");
}

#[tokio::test]
async fn a_broken_record_is_answered_by_an_alert_and_a_goodbye_is_an_end() {
    let [mut near, mut far] = records().await;
    near.write(b"good").unwrap();
    near.protocol
        .waiting
        .extend(&[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]);
    poll_fn(|cx| near.poll_flush(cx)).await.unwrap();
    let error = receive(&mut far, 5).await.unwrap_err();
    assert!(matches!(error, RecordError::Tls(Error::DecryptError)), "{error}");
    poll_fn(|cx| far.poll_flush(cx)).await.unwrap();
    let error = receive(&mut near, 1).await.unwrap_err();
    let told = RecordError::Tls(Error::AlertReceived(AlertDescription::BadRecordMac));
    assert_eq!(error.to_string(), told.to_string());

    let [mut near, mut far] = records().await;
    near.write(b"last").unwrap();
    near.close_notify();
    poll_fn(|cx| near.poll_flush(cx)).await.unwrap();
    let mut buffer = vec![0; ROOM];
    let filled = poll_fn(|cx| far.poll_read(cx, &mut buffer)).await.unwrap();
    let mut left = &mut buffer[..filled];
    assert_eq!(far.open(&mut left).unwrap(), Some(&b"last"[..]));
    assert!(matches!(far.open(&mut left), Err(RecordError::Closed)));
}

#[tokio::test]
async fn other_messages_are_refused_each_by_its_alert() {
    use AlertDescription::{DecodeError, IllegalParameter, UnexpectedMessage};
    for (kind, message, alert, what) in [
        (22, vec![24, 0, 0, 1, 2], IllegalParameter, "a key update of no known value"),
        (22, vec![24, 0, 0, 2, 0, 0], DecodeError, "a key update of two bytes"),
        (22, vec![13, 0, 0, 0], UnexpectedMessage, "a request for a certificate"),
        (22, vec![24, 0, 0, 1, 0, 4], UnexpectedMessage, "a message begun with the old keys"),
        (22, vec![4, 1, 0, 0], DecodeError, "a ticket of 64 KiB"),
        (22, vec![4, 0, 0, 1, 0], UnexpectedMessage, "a ticket from whoever dialled"),
        (22, vec![], UnexpectedMessage, "nothing of a message"),
        (20, vec![1], UnexpectedMessage, "a change of ciphers"),
        (24, vec![1], UnexpectedMessage, "a heartbeat"),
        (21, vec![2], DecodeError, "half an alert"),
    ] {
        let [mut near, mut far] = records().await;
        near.protocol.seal(ContentType::from(kind), &message).unwrap();
        poll_fn(|cx| near.poll_flush(cx)).await.unwrap();
        let result = receive(&mut far, 1).await;
        assert!(matches!(result, Err(RecordError::Tls(_))), "{what}: {result:?}");
        poll_fn(|cx| far.poll_flush(cx)).await.unwrap();
        let told = receive(&mut near, 1).await.unwrap_err().to_string();
        assert_eq!(told, RecordError::Tls(Error::AlertReceived(alert)).to_string(), "{what}");
    }
}

#[tokio::test]
async fn what_the_socket_does_not_take_waits_in_order() {
    let [mut near, mut far] = records().await;
    let sent: Vec<u8> = (0..8_000_000_u32).map(|i| (i / 251).to_le_bytes()[0]).collect();
    // Far more than the kernel takes, so that records are cut anywhere.
    near.write(&sent).unwrap();
    assert_eq!(near.unsent(), sent.len());
    let first = poll_fn(|cx| Poll::Ready(near.poll_flush(cx).is_ready())).await;
    assert!(!first, "the kernel took 8 MB at once");
    let flush = poll_fn(|cx| near.poll_flush(cx));
    let (flushed, received) = tokio::join!(flush, receive(&mut far, sent.len()));
    flushed.unwrap();
    assert!(received.unwrap() == sent);
    assert_eq!(near.unsent(), 0);
}

/// What the kernel carries here, if that is demanded: `cargo xtask vm` does.
fn offer() -> Option<Offer> {
    let demanded = std::env::var_os("LARK_TEST_KTLS").is_some_and(|how| how == "demanded");
    demanded.then(|| lark_sys::ktls::probe().expect("the kernel's TLS is demanded and not there"))
}

#[tokio::test]
async fn a_key_that_is_used_up_is_renewed_or_the_tunnel_ends_before() {
    const USES: u64 = 1_000;
    let [mut near, mut far] = records().await;
    let (suite, offer) = (near.protocol.suite, offer());
    for (records, sends, receives) in [(&mut near, 1, 101), (&mut far, 101, 1)] {
        let (sends, receives) = (secrets(suite, sends), secrets(suite, receives));
        records.protocol.renewed = offer.map(|_| Renewed::default());
        records.kernel = Kernel::new(&records.socket, offer, &receives, &sends, kernel::MARGIN + USES);
        records.keep_nothing();
        assert_eq!(records.kernel.receives(), offer.is_some());
    }
    near.protocol.sealing.set_limit(USES);
    let mut written = 0;
    let result = loop {
        if let Err(error) = near.write(b"x") {
            break Err(error);
        }
        assert_eq!(near.kernel.sends(), offer.is_some());
        poll_fn(|cx| near.poll_flush(cx)).await.unwrap();
        assert_eq!(receive(&mut far, 1).await.unwrap(), b"x");
        written += 1;
        let half = (kernel::MARGIN + USES) / 2;
        let bears = offer.is_none_or(|offer| offer.renews);
        assert_eq!(near.wears_out(), !bears && written >= half, "{written}");
        if written == 3 * USES {
            break Ok(());
        }
    };
    match result {
        Ok(()) => assert!(offer.is_none_or(|offer| offer.renews)),
        Err(error) => {
            assert!(matches!(error, RecordError::OwnKeys), "{error}");
            assert_eq!(written, USES);
        }
    }
    near.close_notify();
    poll_fn(|cx| near.poll_flush(cx)).await.unwrap();
    assert!(matches!(receive(&mut far, 1).await, Err(RecordError::Closed)));
}
