//! What the service manager that started this process wants to be told (sd_notify(3)): a datagram to the
//! socket that it names. Where none is named there is nobody to tell.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable that names the socket; a name that begins with `@` is an abstract one (unix(7)).
const SOCKET: &str = "NOTIFY_SOCKET";

/// The service is up, and this process is its main one: also where it took over from another.
///
/// # Errors
/// When there is a service manager and it cannot be told.
pub fn ready() -> io::Result<()> {
    tell(&format!("READY=1\nMAINPID={}", std::process::id()))
}

/// The service ends.
///
/// # Errors
/// As for [`ready`].
pub fn stopping() -> io::Result<()> {
    tell("STOPPING=1")
}

fn tell(what: &str) -> io::Result<()> {
    std::env::var_os(SOCKET).map_or(Ok(()), |socket| send(&socket, what))
}

fn send(socket: &OsStr, what: &str) -> io::Result<()> {
    let name = socket.as_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(what.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_arrives_by_path_and_by_abstract_name() -> io::Result<()> {
        let path = std::env::temp_dir().join(format!("lark-notify-{}", std::process::id()));
        let name = format!("lark-notify-{}", std::process::id());
        let abstract_one = SocketAddr::from_abstract_name(&name)?;
        for (receiver, socket) in [
            (UnixDatagram::bind(&path)?, path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&abstract_one)?, format!("@{name}").into()),
        ] {
            send(&socket, "READY=1")?;
            let mut buffer = [0; 64];
            let read = receiver.recv(&mut buffer)?;
            assert_eq!(&buffer[..read], b"READY=1");
        }
        std::fs::remove_file(&path)?;
        assert!(send(path.as_os_str(), "READY=1").is_err());
        Ok(())
    }
}
