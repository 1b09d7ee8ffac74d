//! Load shedding above the concurrency limit.

use test_support::Fault;

use crate::support::{TRANSACT, World, an_order};

#[tokio::test]
async fn requests_over_the_limit_are_shed_and_health_checks_are_not() {
    let world = World::with(&[("ORDER_API_MAX_CONCURRENCY", "1")]).await;
    world.proxy.once(TRANSACT, Fault::Hold);
    let order = an_order();
    let others = async {
        world.proxy.holds().await.unwrap();
        world.post(&order).await.assert_problem(503, "overloaded");
        let path = "/orders/0197f2f0-7b1c-7c3e-9d2a-3f1b5c7d9e0f";
        world.get(path).await.assert_problem(503, "overloaded");
        for path in ["/healthz", "/readyz"] {
            assert_eq!(world.get(path).await.status, 200, "{path}");
            assert_eq!(world.admin_get(path).await.status, 200, "{path}");
        }
        assert_eq!(world.admin_get("/metrics").await.status, 200);
        world.proxy.heal();
    };
    let (first, ()) = tokio::join!(world.post(&order), others);
    first.assert_created();
    world.post(&order).await.assert_created();
    assert_eq!(world.counts().await, [2, 2, 0]);
}
