//! Host names looked up once per download. ureq looks them up for each request, even on an open
//! connection: a thousand packages would be a thousand questions, and one lost answer costs seconds.

use crate::lock::fetch::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Remembers addresses as long as it lives; failures are not remembered.
#[derive(Debug, Default)]
pub(super) struct Remembering<R = DefaultResolver> {
    inner: R,
    /// `scheme://host:port` -> addresses.
    known: Mutex<BTreeMap<String, ResolvedSocketAddrs>>,
}

impl<R: Resolver> Resolver for Remembering<R> {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host =
            format!("{}://{}", uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |authority| authority.as_str()));
        // Held while asking, so that threads that begin together ask once.
        let mut known = lock(&self.known);
        if let Some(addresses) = known.get(&host) {
            return Ok(addresses.clone());
        }
        let addresses = self.inner.resolve(uri, config, timeout)?;
        known.insert(host, addresses.clone());
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use ureq::unversioned::transport::time::Duration;

    /// Fails the first time, and counts.
    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    impl Resolver for Counting {
        fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                return Err(ureq::Error::HostNotFound);
            }
            let mut addresses = self.empty();
            addresses.push("127.0.0.1:80".parse().unwrap());
            Ok(addresses)
        }
    }

    #[test]
    fn a_host_is_looked_up_once_and_again_only_after_a_failure() {
        let resolver = Remembering::<Counting>::default();
        let look_up = |url: &'static str| {
            let timeout =
                NextTimeout { after: Duration::NotHappening, reason: ureq::Timeout::Resolve, per_read: None, per_write: None };
            resolver.resolve(&Uri::from_static(url), &Config::default(), timeout).map(|found| found.len()).ok()
        };
        let found = ["http://a/x", "http://a/x", "http://a/y", "http://b/x", "http://b/z"].map(look_up);
        assert_eq!(found, [None, Some(1), Some(1), Some(1), Some(1)]);
        assert_eq!(resolver.inner.0.load(Ordering::Relaxed), 3);
    }
}
