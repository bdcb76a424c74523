//! Node-level mTLS agent for Kubernetes
