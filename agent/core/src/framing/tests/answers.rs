use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is said, and in which order: the other end takes all of it, and hears of each stream that it is open
    /// before anything else, once.
    #[test]
    fn answers_that_are_put_off_come_first_and_once(
        steps in prop::collection::vec((0_u8..7, any::<prop::sample::Index>()), 1..200)
    ) {
        let (mut client, mut server) = pair();
        let (mut open, mut told, mut ours) = (Vec::new(), Vec::new(), Vec::new());
        for (step, which) in steps {
            let stream = (!open.is_empty()).then(|| open[which.index(open.len())]);
            match (step, stream) {
                (0 | 1, _) if open.len() < 100 => {
                    let stream = client.connect(&request()).unwrap();
                    deliver(&mut client, &mut server);
                    if step == 0 { server.open_late(stream) } else { server.respond(stream, 200, None, None) }
                    open.push(stream);
                    ours.push(stream);
                }
                (2, Some(stream)) if server.capacity(stream) > 0 => {
                    let header = server.data_header(stream, 1, false);
                    server.output().extend(header);
                    server.output().push(7);
                }
                (3, Some(stream)) if client.capacity(stream) > 0 => {
                    let header = client.data_header(stream, 1, false);
                    client.output().extend(header);
                    client.output().push(7);
                    deliver(&mut client, &mut server);
                }
                (4, Some(stream)) => {
                    server.reset(stream, ErrorCode::CANCEL);
                    open.retain(|other| *other != stream);
                }
                (5, _) => server.answer_late(),
                _ => told.extend(deliver(&mut server, &mut client)),
            }
        }
        server.answer_late();
        told.extend(deliver(&mut server, &mut client));
        for stream in ours {
            let name = format!("stream: {stream:?},");
            let of: Vec<_> = told.iter().filter(|event| event.contains(&name)).collect();
            prop_assert!(of.first().is_some_and(|event| event.starts_with("Response")), "{stream:?}: {of:?}");
            prop_assert_eq!(of.iter().filter(|event| event.starts_with("Response")).count(), 1);
        }
    }

    #[test]
    fn streams_that_are_opened_and_reset_before_their_answer_leave_nothing(count in 1_usize..2_000) {
        let (mut client, mut server) = pair();
        for _ in 0..count {
            let stream = client.connect(&request()).unwrap();
            deliver(&mut client, &mut server);
            server.open_late(stream);
            // As it is when the peer has reset it.
            server.streams.remove(&stream.value());
            client.streams.remove(&stream.value());
            prop_assert!(server.late.len() < 256);
        }
    }
}

#[test]
fn an_answer_that_is_put_off_goes_before_whatever_is_said_next_on_its_stream() {
    let opened = |stream| Event::Response { stream, status: 200, reason: None, policy: None };
    let opened = |stream| format!("{:?}", opened(stream));
    let (mut client, mut server) = pair();
    let open = |server: &mut Connection, client: &mut Connection| {
        let stream = client.connect(&request()).unwrap();
        deliver(client, server);
        server.open_late(stream);
        assert_eq!(deliver(server, client), [""; 0]);
        stream
    };

    let said = open(&mut server, &mut client);
    let end = server.data_header(said, 0, true);
    server.output().extend(end);
    assert_eq!(
        deliver(&mut server, &mut client),
        [opened(said), format!("{:?}", Event::End { stream: said })]
    );

    let reset = open(&mut server, &mut client);
    server.reset(reset, ErrorCode::CONNECT_ERROR);
    let told = format!("{:?}", Event::Reset { stream: reset, code: ErrorCode::CONNECT_ERROR });
    assert_eq!(deliver(&mut server, &mut client), [opened(reset), told]);

    // The peer says more, and may not go on without an answer.
    let more = open(&mut server, &mut client);
    let header = client.data_header(more, 3, false);
    client.output().extend(header);
    client.output().extend(b"and");
    deliver(&mut client, &mut server);
    assert_eq!(deliver(&mut server, &mut client), [opened(more)]);

    let late = open(&mut server, &mut client);
    server.answer_late();
    assert_eq!(deliver(&mut server, &mut client), [opened(late)]);
    // Once, whatever comes after it.
    server.answer_late();
    server.respond(late, 503, None, None);
    assert_eq!(deliver(&mut server, &mut client), [""; 0]);
}

#[test]
fn released_it_has_no_room_for_streams_that_are_over_and_goes_on() {
    let (mut client, mut server) = pair();
    let streams: Vec<_> = (0..1_000).map(|_| client.connect(&request()).unwrap()).collect();
    deliver(&mut client, &mut server);
    assert_eq!(server.streams.len(), 1_000);
    for stream in &streams {
        server.open_late(*stream);
    }
    for stream in &streams {
        server.reset(*stream, ErrorCode::CONNECT_ERROR);
    }
    deliver(&mut server, &mut client);
    for end in [&mut client, &mut server] {
        assert!(end.streams.is_empty() && end.streams.capacity() >= 1_000);
        end.release();
        assert_eq!((end.streams.capacity(), end.late.capacity(), end.pending.capacity()), (0, 0, 0));
    }
    // An answer that is still put off is kept.
    let stream = client.connect(&request()).unwrap();
    deliver(&mut client, &mut server);
    server.open_late(stream);
    server.release();
    server.answer_late();
    assert!(deliver(&mut server, &mut client).concat().starts_with("Response"));
}
