//! Interfaces of a namespace, and which of them are the two ends of one wire (rtnetlink, `RTM_GETLINK` and
//! `RTM_GETNSID`).

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::{RecvFlags, SendFlags};

use crate::netlink;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
/// Attributes of a link (include/uapi/linux/if_link.h).
const NAME: u16 = 3;
const LINK: u16 = 5;
const LINKINFO: u16 = 18;
const KIND: u16 = 1;
const LINK_NETNSID: u16 = 37;
/// Attributes of a namespace's number (include/uapi/linux/net_namespace.h).
const NSID: u16 = 1;
const NSID_OF_FD: u16 = 3;
/// Attributes of an address (include/uapi/linux/if_addr.h): the other end's on a wire of two, and the own one.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
/// Length of `struct ifaddrmsg`.
const ADDRESS_MESSAGE: usize = 8;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
/// Addresses of a pod's namespace that are looked at.
const LOOKED_AT: usize = 1024;
/// Length of `struct ifinfomsg`.
const LINK_MESSAGE: usize = 16;

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is made of, `veth` for instance; empty for hardware.
    pub kind: String,
    /// Whether it is up.
    pub is_up: bool,
    /// Whether it is the loopback device.
    pub is_loopback: bool,
    /// The index of what it is joined to or lies upon, in whichever namespace.
    pub link: Option<u32>,
    /// The number of that namespace, if it is another one.
    pub link_netns: Option<u32>,
}

/// All interfaces of the calling thread's namespace.
///
/// # Errors
/// When the kernel refuses to tell.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut found = Vec::new();
    let request = netlink::message(RTM_GETLINK, netlink::REQUEST_DUMP, &[0; LINK_MESSAGE]);
    netlink::dump(netlink::ROUTE, &request, |kind, body| {
        if kind == RTM_NEWLINK {
            found.extend(parse(body));
        }
        Ok(())
    })?;
    Ok(found)
}

/// All addresses of the calling thread's namespace.
///
/// # Errors
/// When the kernel refuses to tell.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    each_address(|address| {
        found.push(address);
        Ok(())
    })?;
    Ok(found)
}

/// Which of these addresses the calling thread's namespace has. Whose namespace it is may have given it any
/// number of others, of which only [`LOOKED_AT`] are looked at.
///
/// # Errors
/// When it has more, or the kernel refuses to tell.
pub fn has_of(wanted: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
    among(wanted, LOOKED_AT)
}

fn among(wanted: &[IpAddr], mut left: usize) -> io::Result<Vec<IpAddr>> {
    let mut found = BTreeSet::new();
    each_address(|address| {
        left = left
            .checked_sub(1)
            .ok_or_else(|| io::Error::other("a network namespace has too many addresses"))?;
        if wanted.contains(&address) {
            found.insert(address);
        }
        Ok(())
    })?;
    Ok(found.into_iter().collect())
}

fn each_address(mut each: impl FnMut(IpAddr) -> io::Result<()>) -> io::Result<()> {
    let request = netlink::message(RTM_GETADDR, netlink::REQUEST_DUMP, &[0; ADDRESS_MESSAGE]);
    netlink::dump(netlink::ROUTE, &request, |kind, body| match parse_address(body) {
        Some(address) if kind == RTM_NEWADDR => each(address),
        _ => Ok(()),
    })
}

/// The number by which the calling thread's namespace knows another one; nothing if no interface has made
/// them acquainted.
///
/// # Errors
/// When the kernel refuses to tell.
pub fn netns_number(netns: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let mut body = vec![0; 4];
    body.extend(8_u16.to_ne_bytes());
    body.extend(NSID_OF_FD.to_ne_bytes());
    body.extend(netns.as_raw_fd().to_ne_bytes());
    let socket = netlink::open(netlink::ROUTE)?;
    let request = netlink::message(RTM_GETNSID, netlink::REQUEST, &body);
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0_u8; 1024];
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    let silent = || io::Error::other("the kernel did not answer a question about a network namespace");
    match answer.get(..length).and_then(netlink::split).ok_or_else(silent)? {
        // None yet is -1.
        (RTM_NEWNSID, body, _) => Ok(netlink::number(body.get(4..).unwrap_or_default(), NSID)
            .filter(|number| i32::try_from(*number).is_ok())),
        (_, body, _) => Err(netlink::refusal(body).unwrap_or_else(silent)),
    }
}

/// The other ends of a namespace's wires.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ends {
    /// The indices of those that are here.
    pub here: Vec<u32>,
    /// What of the other namespace is up and leads out of it and has no end here, with its kind.
    pub elsewhere: Vec<String>,
}

/// The ends among our own interfaces, `here`, of wires into another namespace with the interfaces `there`,
/// which we know by that number.
pub fn ends(here: &[Interface], there: &[Interface], number: Option<u32>) -> Ends {
    let mut ends = Ends::default();
    for interface in there.iter().filter(|i| !i.is_loopback) {
        let is_end = |own: &&Interface| {
            (&*interface.kind, &*own.kind) == ("veth", "veth")
                && number.is_some()
                && own.link_netns == number
                && own.link == Some(interface.index)
                && interface.link == Some(own.index)
        };
        if let Some(own) = here.iter().find(is_end) {
            ends.here.push(own.index);
        } else if interface.is_up && (interface.kind.is_empty() || interface.link_netns.is_some()) {
            let kind = if interface.kind.is_empty() { "hardware" } else { &interface.kind };
            ends.elsewhere.push(format!("{} ({kind})", interface.name));
        }
    }
    ends
}

fn parse(body: &[u8]) -> Option<Interface> {
    let word = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let attributes = body.get(LINK_MESSAGE..)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let kind = netlink::attribute(attributes, LINKINFO).and_then(|info| netlink::attribute(info, KIND));
    let flags = word(8)?;
    Some(Interface {
        index: word(4)?,
        name: text(netlink::attribute(attributes, NAME)?),
        kind: kind.map(text).unwrap_or_default(),
        is_up: flags & IFF_UP != 0,
        is_loopback: flags & IFF_LOOPBACK != 0,
        link: netlink::number(attributes, LINK),
        link_netns: netlink::number(attributes, LINK_NETNSID),
    })
}

fn parse_address(body: &[u8]) -> Option<IpAddr> {
    let attributes = body.get(ADDRESS_MESSAGE..)?;
    let bytes = netlink::attribute(attributes, LOCAL).or_else(|| netlink::attribute(attributes, ADDRESS))?;
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn interface(index: u32, kind: &str, link: Option<u32>, link_netns: Option<u32>) -> Interface {
        let name = format!("i{index}");
        Interface { index, name, kind: kind.to_owned(), is_up: true, is_loopback: false, link, link_netns }
    }

    #[test]
    fn a_wire_is_known_by_both_of_its_ends() {
        let here = [
            interface(2, "", None, None),
            interface(7, "veth", Some(2), Some(3)),
            interface(8, "veth", Some(2), Some(4)),
            interface(9, "bridge", None, None),
        ];
        let found = |interface: Interface, number: Option<u32>| ends(&here, &[interface], number);
        let none = Ends::default();
        let one = Ends { here: vec![7], elsewhere: vec![] };
        let elsewhere = |told: &str| Ends { here: vec![], elsewhere: vec![told.to_owned()] };
        assert_eq!(found(interface(2, "veth", Some(7), Some(0)), Some(3)), one);
        // The same indices in a third namespace.
        assert_eq!(found(interface(2, "veth", Some(7), Some(0)), Some(5)), elsewhere("i2 (veth)"));
        assert_eq!(found(interface(2, "veth", Some(7), Some(0)), None), elsewhere("i2 (veth)"));
        assert_eq!(found(interface(3, "ipvlan", Some(2), Some(0)), Some(3)), elsewhere("i3 (ipvlan)"));
        assert_eq!(found(interface(3, "", None, None), Some(3)), elsewhere("i3 (hardware)"));
        // What lies upon another, or leads nowhere.
        assert_eq!(found(interface(3, "vlan", Some(2), None), Some(3)), none);
        assert_eq!(found(interface(3, "dummy", None, None), Some(3)), none);
        let down = Interface { is_up: false, ..interface(3, "", None, None) };
        assert_eq!(found(down, Some(3)), none);
        let loopback = Interface { is_loopback: true, ..interface(1, "", None, None) };
        assert_eq!(found(loopback, Some(3)), none);
    }

    #[test]
    fn of_the_addresses_of_a_namespace_only_those_asked_for_are_kept() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(has_of(&[IpAddr::from([203, 0, 113, 9]), loopback]).unwrap(), [loopback]);
        assert_eq!(has_of(&[]).unwrap(), Vec::<IpAddr>::new());
        let error = among(&[loopback], 0).unwrap_err().to_string();
        assert_eq!(error, "a network namespace has too many addresses");
    }

    #[test]
    fn the_loopback_device_is_found_and_a_stranger_has_no_number() {
        let found = interfaces().unwrap();
        assert!(found.iter().any(|i| i.is_loopback && i.name == "lo"), "{found:?}");
        assert!(addresses().unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
        let file = std::thread::spawn(|| {
            // SAFETY: a new network namespace for this thread alone changes no memory.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            std::fs::File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap();
        assert_eq!(netns_number(file.as_fd()).unwrap(), None);
        assert!(netns_number(std::fs::File::open("/proc/self/status").unwrap().as_fd()).is_err());
    }
}
