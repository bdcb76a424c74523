use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::CipherSuite;
use serde_json::{Value, json};

/// A full TLS record.
const RECORD: usize = 16 * 1024;
/// Records between two looks at the clock.
const BATCH: u32 = 64;

/// GB/s of sealing and opening with what two agents agree on, and of both AES.
pub(crate) fn measure(time: Duration) -> Result<Value> {
    let negotiated = lark_tunnel::cipher::provider(&lark_tunnel::cipher::by_speed())
        .cipher_suites
        .iter()
        .find_map(|suite| suite.tls13())
        .context("the provider has no TLS 1.3")?
        .common
        .suite;
    let algorithm = match negotiated {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => &AES_128_GCM,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => &AES_256_GCM,
        _ => &CHACHA20_POLY1305,
    };
    // A core that comes out of idleness is slower at first, which would make the cipher look so.
    speed(algorithm, time)?;
    let (seal, open) = speed(algorithm, time)?;
    Ok(json!({
        "suite": format!("{negotiated:?}"),
        "seal": seal,
        "open": open,
        "aes128": speed(&AES_128_GCM, time)?.0,
        "aes256": speed(&AES_256_GCM, time)?.0,
    }))
}

/// GB/s of sealing and of opening, in place.
fn speed(algorithm: &'static Algorithm, time: Duration) -> Result<(f64, f64)> {
    let failed = |_| anyhow::anyhow!("the cipher failed");
    let key = LessSafeKey::new(UnboundKey::new(algorithm, &vec![7; algorithm.key_len()]).map_err(failed)?);
    let nonce = || Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let mut record = vec![0; RECORD];
    let seal = rate(time, || {
        let _ = key.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut record).map_err(failed)?;
        Ok(())
    })?;
    let mut sealed = vec![0; RECORD];
    key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut sealed).map_err(failed)?;
    let mut work = sealed.clone();
    let whole = rate(time, || {
        work.copy_from_slice(&sealed);
        key.open_in_place(nonce(), Aad::empty(), &mut work).map_err(failed)?;
        Ok(())
    })?;
    // The copy is the bench's own, since opening destroys its input.
    let copy = rate(time / 4, || {
        work.copy_from_slice(std::hint::black_box(&sealed));
        std::hint::black_box(&mut work);
        Ok(())
    })?;
    Ok((seal, 1.0 / (1.0 / whole - 1.0 / copy)))
}

/// GB/s at which records go through `work`.
fn rate(time: Duration, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    let mut batches = 0_u32;
    while begin.elapsed() < time {
        for _ in 0..BATCH {
            work()?;
        }
        batches += 1;
    }
    let bytes = f64::from(batches) * f64::from(BATCH) * RECORD as f64;
    Ok(bytes / begin.elapsed().as_secs_f64() / 1e9)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_cipher_seals_and_opens() {
        let measured = super::measure(std::time::Duration::from_millis(1)).unwrap();
        for name in ["seal", "open", "aes128", "aes256"] {
            assert!(measured[name].as_f64().unwrap() > 0.0, "{measured}");
        }
    }
}
