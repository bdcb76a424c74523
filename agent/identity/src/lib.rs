//! SVID store, rotation, CA client, and the CA protocol
