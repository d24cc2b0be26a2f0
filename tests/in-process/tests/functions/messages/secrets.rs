//! Which secrets sign, and what happens if a secret or a header cannot be opened.

use std::time::Duration;

use shared::{
    model::ErrorKind,
    sealing::{MasterKeys, Sealed},
    status::Status,
};

use super::tenant::{KEY, OTHER_KEY, Tenant, signed_by};

const HOUR: Duration = Duration::from_secs(3600);

fn keys(list: &str) -> MasterKeys {
    list.parse().unwrap()
}

/// All live secrets sign, newest first, and one that has expired does not.
#[tokio::test]
async fn all_live_secrets_sign() {
    let tenant = Tenant::with(&[("WEBHOOK_HMAC_SECRET", "direct")], 1).await;
    let now = tenant.world.now();
    let mut secrets: Vec<_> = [5, 4, 3].map(|number| tenant.seal_secret(number, 1)).into();
    secrets[1].expires_at = Some(now.plus(HOUR));
    secrets[2].expires_at = Some(now);
    tenant.change_endpoint(1, |endpoint| endpoint.secrets = secrets).await;
    let sent = async || {
        tenant.accept(1).await;
        tenant.drain().await;
        tenant.endpoints.take().remove(0).signatures
    };
    assert_eq!(sent().await, Some(signed_by(&[5, 4])));
    tenant.world.clock.advance(HOUR);
    assert_eq!(sent().await, Some(signed_by(&[5])));
    // The secrets of the settings sign direct webhooks.
    let direct = tenant.world.accepted().await;
    tenant.world.queued(&direct).await;
    tenant.drain().await;
    assert_eq!(tenant.endpoints.take().remove(0).signatures, None);
}

/// Runs the delivery until it has been deferred, and asserts that nothing was sent.
async fn assert_deferred(tenant: &Tenant) -> shared::model::Webhook {
    let message = tenant.accept(1).await;
    tenant.drain().await;
    let deferred = tenant.delivery(&message, 1).await.unwrap();
    let wait = deferred.allowed_at.unwrap().since(deferred.updated_at);
    // It is counted from before the write.
    assert_eq!((deferred.status, wait.as_millis().div_ceil(1000)), (Status::Retrying, 300));
    assert_eq!((deferred.attempt_count, deferred.budget.deferrals), (0, 1), "no attempt");
    assert_eq!(tenant.endpoints.take(), []);
    deferred
}

/// Deliveries wait for a master key that is absent, and go out once it is back.
#[tokio::test]
async fn deliveries_wait_for_an_absent_master_key() {
    for absent in [None, Some(keys(OTHER_KEY))] {
        let mut tenant = Tenant::new(1).await;
        tenant.configure(|config| config.master_keys.clone_from(&absent));
        let deferred = assert_deferred(&tenant).await;
        tenant.configure(|config| config.master_keys = Some(keys(&format!("{OTHER_KEY} {KEY}"))));
        tenant.run_until_settled(Duration::from_secs(60)).await;
        assert_eq!(tenant.world.stored(&deferred).await.status, Status::Delivered, "{absent:?}");
        assert_eq!(tenant.endpoints.take().remove(0).signatures, Some(signed_by(&[1])));
    }
}

/// One secret that does not open holds up the delivery, although another one could sign. So does a
/// header. Nothing is sent with less than what the endpoint has.
#[tokio::test]
async fn nothing_is_sent_with_fewer_secrets_or_headers() {
    let tenant = Tenant::new(2).await;
    let foreign = tenant.seal_secret(9, 2);
    let (own, header) = (tenant.seal_secret(1, 1), tenant.seal_header(1, "x-a", "1"));
    let damaged = {
        let text = header.sealed.as_str();
        let (head, last) = text.split_at(text.len() - 2);
        let other = if last == "AA" { "BB" } else { "AA" };
        serde_json::from_value::<Sealed>(format!("{head}{other}").into()).unwrap()
    };
    let no_text: Sealed = serde_json::from_value("nonsense".into()).unwrap();
    for (secrets, headers) in [
        (vec![own.clone(), foreign], vec![]),
        (vec![own.clone()], vec![damaged]),
        (vec![own.clone()], vec![no_text]),
        (vec![], vec![]),
    ] {
        let headers = headers.into_iter().map(|sealed| {
            let name = "x-a".to_owned();
            shared::applications::endpoint::SealedHeader { name, sealed }
        });
        let headers = headers.collect();
        tenant
            .change_endpoint(1, |endpoint| {
                (endpoint.secrets, endpoint.headers) = (secrets, headers);
            })
            .await;
        assert_deferred(&tenant).await;
    }
    tenant
        .change_endpoint(1, |endpoint| (endpoint.secrets, endpoint.headers) = (vec![own], vec![]))
        .await;
    tenant.run_until_settled(Duration::from_secs(60)).await;
    assert_eq!(tenant.endpoints.take().len(), 4, "all of them, once it is mended");
}

/// A value that nobody mends fails the delivery once its deferrals are used up. It becomes a dead
/// letter, which can be resent.
#[tokio::test]
async fn after_the_longest_time_the_delivery_fails() {
    let mut tenant = Tenant::with(&[("MAX_DEFER_MS", "3600000")], 1).await;
    tenant.configure(|config| config.master_keys = None);
    let deferred = assert_deferred(&tenant).await;
    tenant.run_until_settled(Duration::from_secs(60)).await;
    let failed = tenant.world.stored(&deferred).await;
    assert!(failed.is_dead_letter());
    assert_eq!(failed.budget.deferrals, 12, "an hour in steps of 5 minutes");
    let error = failed.last_error.unwrap();
    assert_eq!(error.kind, ErrorKind::Undeliverable);
    assert!(error.message.contains("could not be read"), "{}", error.message);
}
