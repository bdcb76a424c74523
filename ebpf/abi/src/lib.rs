//! Types and verdicts shared by the kernel and the user side
