//! The kernel side as user space sees it: loading, links, pins, maps with typed keys
