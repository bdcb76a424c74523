//! Connections that outlive what they were opened with.

use std::time::Duration;

use lark_testbed::{Nginx, eventually};

use crate::house::House;

#[test]
fn a_connection_that_is_open_for_long_is_said_so() {
    let house = House::captured_with(&["--long-stream", "2"]);
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let hold = format!(
        "import socket, time; s = socket.create_connection((\"{}\", 8080)); time.sleep(600)",
        house.server.ip
    );
    let mut command = house.client.place.command("python3");
    command.args(["-c", &hold]);
    let _held = house.client.place.start(command, &house.bed.directory().join("hold.log")).unwrap();
    eventually(Duration::from_secs(30), "the connection is said to be long", || {
        let connections = house.one.json("connections")?;
        let mut long = 0;
        for connection in connections.as_array().into_iter().flatten() {
            let said = connection["note"].as_str().is_some_and(|note| note.contains("--long-stream, 2 s"));
            if let Some(age) = connection["age_seconds"].as_u64() {
                assert_eq!(said, age >= 2, "{connection}");
                long += u32::from(said);
            }
        }
        Ok(long == 1)
    })
    .unwrap();
    assert!(house.one.table(&["connections"]).unwrap().contains("--long-stream"));
}
