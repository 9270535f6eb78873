//! How is a certificate fetched? An account, an order, a challenge, a key, a certificate: the steps of RFC 8555.

use std::sync::Arc;
use std::time::Duration;

use bgproxy_conf::Acme;
use bytes::Bytes;
use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeHandle, ChallengeType, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use tokio::time::{sleep, timeout};

use super::fault::{Fault, problem_said};
use super::https::{self, Https, Notes};
use super::kept::{Fetched, Identity, Kept, Pem};
use super::renewal::Window;
use crate::certificates::Certificate;
use crate::challenges::{Challenges, Posted};
use crate::control::certificates::{now, written};
use crate::control::failpoint;

/// How long an authority may take to look, and to sign.
const SOON: Duration = Duration::from_secs(60);

/// Between two questions whether it has looked, at first.
const SHORTLY: Duration = Duration::from_millis(250);

/// How far the authority's clock may be ahead of ours.
const SKEW: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority that knows us.
pub(super) struct Authority {
    account: Account,
    directory: String,
}

impl Authority {
    /// Meets the authority of this configuration: with the account that we have there, or else with a new one.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) async fn meet(config: &Acme, kept: &Kept, notes: &Arc<Notes>) -> Result<Authority, Fault> {
        match Authority::meet_again(config, kept, notes).await? {
            Some(authority) => Ok(authority),
            None => Authority::introduce(config, kept, notes).await,
        }
    }

    /// Meets it with the account that we have there, if we have one.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) async fn meet_again(config: &Acme, kept: &Kept, notes: &Arc<Notes>) -> Result<Option<Authority>, Fault> {
        let Some(identity) = kept.identity(&config.directory) else { return Ok(None) };
        let https = https(config, notes).await?;
        let account = Account::builder_with_http(Box::new(https)).from_credentials(identity.credentials).await?;
        Ok(Some(Authority { account, directory: config.directory.clone() }))
    }

    /// Makes an account, and keeps it.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) async fn introduce(config: &Acme, kept: &Kept, notes: &Arc<Notes>) -> Result<Authority, Fault> {
        let https = https(config, notes).await?;
        let contact = config.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.as_deref().into_iter().collect();
        let account =
            NewAccount { contact: &contact, terms_of_service_agreed: config.terms_agreed, only_return_existing: false };
        let directory = config.directory.clone();
        let builder = Account::builder_with_http(Box::new(https));
        let (account, credentials) = builder.create(&account, directory.clone(), None).await?;
        tracing::info!(directory, account = account.id(), "the authority has made an account for us");
        let (kept, identity) = (kept.clone(), Identity { directory: directory.clone(), credentials });
        on_disk(move || Ok(kept.keep_identity(&identity)?)).await?;
        Ok(Authority { account, directory })
    }

    /// When it suggests to renew a certificate, and in how long it wants to be asked again.
    ///
    /// # Errors
    /// It makes no suggestions, or was not reached.
    pub(super) async fn suggestion(&self, certificate: &Certificate) -> Result<(Window, Option<Duration>), Fault> {
        let id = identifier(certificate).ok_or_else(|| Fault::Order("without a name".to_owned()))?;
        let (info, ask_again) = self.account.renewal_info(&id).await?;
        let second = |at: i64| u64::try_from(at).unwrap_or(0);
        let (start, end) = (info.suggested_window.start, info.suggested_window.end);
        let window = Window { start: second(start.unix_timestamp()), end: second(end.unix_timestamp()) };
        Ok((window, Some(ask_again)))
    }

    /// Fetches a certificate for a host.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) async fn fetch(&self, wanted: &Wish, challenges: &Arc<Challenges>) -> Result<(Fetched, Pem), Fault> {
        let mut order = self.order(wanted).await?;
        failpoint::reach("acme_ordered");
        self.prove(&mut order, wanted, challenges).await?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![wanted.host.clone()])?;
        params.distinguished_name = DistinguishedName::new();
        order.finalize_csr(params.serialize_request(&key)?.der()).await?;
        let chain = order.poll_certificate(&RetryPolicy::new().timeout(SOON)).await?;
        let pem = Pem::new(&self.directory, &key.serialize_pem(), &chain);
        let fetched = pem.read(&wanted.host)?;
        check_time(&fetched.certificate, now())?;
        Ok((fetched, pem))
    }

    async fn order(&self, wanted: &Wish) -> Result<Order, Fault> {
        let host = [Identifier::Dns(wanted.host.clone())];
        if let Some(replaced) = &wanted.replaces
            && let Some(id) = identifier(replaced)
        {
            match self.account.new_order(&NewOrder::new(&host).replaces(id)).await.map_err(Fault::of_order) {
                // It need not know the certificate any more, nor the word: an order like any other is then the way on.
                Err(fault) if fault.is_of_order() => {
                    let (host, fault) = (&wanted.host, fault.told());
                    tracing::debug!(host, "ordering again, as no replacement: {fault}");
                }
                result => return result,
            }
        }
        self.account.new_order(&NewOrder::new(&host)).await.map_err(Fault::of_order)
    }

    /// Shows that the host is ours.
    async fn prove(&self, order: &mut Order, wanted: &Wish, challenges: &Arc<Challenges>) -> Result<(), Fault> {
        let mut posted = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            match authorization.status {
                // It looked lately.
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                status => return Err(Fault::Order(format!("{status:?}").to_lowercase())),
            }
            let kind = wanted.challenge.clone();
            let mut challenge = authorization.challenge(kind).ok_or(Fault::NotOffered(wanted.called()))?;
            posted.push(post(&challenge, wanted, challenges)?);
            failpoint::reach("acme_posted");
            challenge.set_ready().await?;
        }
        timeout(SOON, looked(order)).await.unwrap_or(Err(Fault::Late(SOON.as_secs())))?;
        match order.poll_ready(&RetryPolicy::new().timeout(SOON)).await? {
            OrderStatus::Ready => Ok(()),
            status => Err(Fault::Order(format!("{status:?}").to_lowercase())),
        }
    }
}

/// The certificate that is wanted.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// For this host.
    pub(super) host: String,
    /// How it is shown to be ours.
    pub(super) challenge: ChallengeType,
    /// The one that it is to replace, of the same authority.
    pub(super) replaces: Option<Certificate>,
}

impl Wish {
    /// The challenge's name.
    pub(super) fn called(&self) -> &'static str {
        if self.challenge == ChallengeType::TlsAlpn01 { "tls-alpn-01" } else { "http-01" }
    }
}

/// Puts the answer where the authority will look.
fn post(challenge: &ChallengeHandle<'_>, wanted: &Wish, challenges: &Arc<Challenges>) -> Result<Posted, Fault> {
    let answer = challenge.key_authorization();
    if wanted.challenge != ChallengeType::TlsAlpn01 {
        return Ok(challenges.answer_request(&challenge.token, Bytes::copy_from_slice(answer.as_str().as_bytes())));
    }
    let mut params = CertificateParams::new(vec![wanted.host.clone()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(answer.digest().as_ref())];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = any_supported_type(&key).map_err(crate::certificates::Fault::Key)?;
    Ok(challenges.answer_handshake(&wanted.host, &Arc::new(CertifiedKey::new(vec![certificate], key))))
}

/// Waits until the authority has looked. (Its order may stay pending when it has not found us.)
async fn looked(order: &mut Order) -> Result<(), Fault> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let mut pause = SHORTLY;
        loop {
            let state = authorization.refresh().await?;
            match state.status {
                AuthorizationStatus::Valid => break,
                AuthorizationStatus::Pending => {}
                _ => {
                    let problem = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
                    return Err(Fault::NotFound(
                        problem.map_or_else(|| "it does not say why".to_owned(), problem_said),
                    ));
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(16 * SHORTLY);
        }
    }
    Ok(())
}

/// Its name with the authority, if it has one.
fn identifier(certificate: &Certificate) -> Option<CertificateIdentifier<'static>> {
    CertificateIdentifier::try_from(certificate.leaf()?).ok().map(CertificateIdentifier::into_owned)
}

async fn https(config: &Acme, notes: &Arc<Notes>) -> Result<Https, Fault> {
    // instant-acme takes for granted that it is a URL.
    https::check(&config.directory).map_err(Fault::unreached)?;
    let (ca, notes) = (config.ca.clone(), notes.clone());
    on_disk(move || Ok(Https::new(ca.as_deref(), notes)?)).await
}

/// Something that waits for the disk, but not for ever.
pub(super) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    timeout(SOON, tokio::task::spawn_blocking(work))
        .await
        .map_err(|_late| Fault::Disk)?
        .map_err(|_panic| Fault::Panic)?
}

/// Whether a certificate can be used at this second: what is in use is not to be replaced by one that clients refuse.
fn check_time(certificate: &Certificate, now: u64) -> Result<(), Fault> {
    let Certificate { not_before, not_after, .. } = *certificate;
    // Authorities date theirs back, for clocks that are not quite right; so do we.
    if not_after <= now || not_before > now.saturating_add(SKEW.as_secs()) {
        return Err(Fault::Untimely { not_before: written(not_before), not_after: written(not_after) });
    }
    Ok(())
}
