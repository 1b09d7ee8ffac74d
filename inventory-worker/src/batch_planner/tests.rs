use proptest::prelude::*;
use shared::order::PlacedLine;

use super::*;

fn order(skus: &[&str]) -> Arc<OrderPlaced> {
    let items = skus.iter().map(|sku| PlacedLine {
        sku: Sku::try_from((*sku).to_owned()).unwrap(),
        quantity: 1.try_into().unwrap(),
    });
    Arc::new(OrderPlaced {
        order_id: OrderId::generate(),
        items: items.collect(),
    })
}

/// Adds an order for each list of SKUs, and starts what can start.
fn started(planner: &mut BatchPlanner<()>, orders: &[&[&str]]) -> Vec<Batch<()>> {
    for skus in orders {
        planner.add(order(skus), ());
    }
    planner.start()
}

fn arrivals(batches: &[Batch<()>]) -> Vec<Vec<u64>> {
    let of = |batch: &Batch<()>| batch.jobs.iter().map(Job::arrival).collect();
    batches.iter().map(of).collect()
}

/// Ends a batch whose orders are all decided, and starts what can start.
fn ended(planner: &mut BatchPlanner<()>, batch: Batch<()>) -> Vec<Batch<()>> {
    planner.release(batch.lanes);
    planner.start()
}

#[test]
fn orders_that_need_the_same_sku_are_one_batch_and_others_are_batches_of_their_own() {
    let mut planner = BatchPlanner::new();
    let batches = started(&mut planner, &[&["A"], &["B"], &["A"], &["A", "C"], &["C"]]);
    assert_eq!(arrivals(&batches), [vec![0, 2, 3, 4], vec![1]]);
}

#[test]
fn an_order_waits_while_a_batch_uses_one_of_its_skus_and_then_joins_those_that_wait_too() {
    let mut planner = BatchPlanner::new();
    let mut first = started(&mut planner, &[&["A"]]);
    assert!(started(&mut planner, &[&["A"], &["A", "B"], &["B"]]).is_empty());
    assert_eq!(arrivals(&started(&mut planner, &[&["C"]])), [[4]]);
    let next = ended(&mut planner, first.remove(0));
    assert_eq!(arrivals(&next), [[1, 2, 3]]);
}

#[test]
fn no_order_overtakes_an_earlier_one_for_the_same_sku() {
    let mut planner = BatchPlanner::new();
    let mut running = started(&mut planner, &[&["A"], &["B"]]);
    // 2 waits for A and B; 3 and 4 wait behind it.
    assert!(started(&mut planner, &[&["A", "B"], &["B"], &["A"]]).is_empty());
    let b = running.remove(1);
    assert!(ended(&mut planner, b).is_empty());
    let a = running.remove(0);
    assert_eq!(arrivals(&ended(&mut planner, a)), [[2, 3, 4]]);
}

#[test]
fn two_messages_of_one_order_are_never_in_one_batch_nor_in_two_at_once() {
    let mut planner = BatchPlanner::new();
    let twice = order(&["A"]);
    let changed = Arc::new(OrderPlaced {
        order_id: twice.order_id,
        items: order(&["B"]).items.clone(),
    });
    planner.add(Arc::clone(&twice), ());
    planner.add(twice, ());
    planner.add(changed, ());
    let mut batches = planner.start();
    assert_eq!(arrivals(&batches), [[0]]);
    let mut batches = ended(&mut planner, batches.remove(0));
    assert_eq!(arrivals(&batches), [[1]]);
    assert_eq!(arrivals(&ended(&mut planner, batches.remove(0))), [[2]]);
}

#[test]
fn a_batch_has_at_most_50_orders_and_100_actions() {
    let mut planner = BatchPlanner::new();
    for _ in 0..51 {
        planner.add(order(&["A"]), ());
    }
    let batches = planner.start();
    assert_eq!(batches[0].jobs.len(), 50);

    let names: Vec<String> = (0..50).map(|n| format!("S-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut planner = BatchPlanner::new();
    for _ in 0..50 {
        planner.add(order(&names), ());
    }
    // 50 orders and 50 SKUs.
    assert_eq!(planner.start()[0].jobs.len(), 50);

    let mut planner = BatchPlanner::new();
    planner.add(order(&names), ());
    let others: Vec<String> = (0..49).map(|n| format!("T-{n}")).collect();
    let mut others: Vec<&str> = others.iter().map(String::as_str).collect();
    others.push("S-0");
    // 2 orders and 99 SKUs are one action too many, and what is behind it waits with it.
    planner.add(order(&others), ());
    planner.add(order(&["S-0"]), ());
    planner.add(order(&["S-1"]), ());
    assert_eq!(arrivals(&planner.start()), [[0, 3]]);
}

#[test]
fn an_order_that_is_put_back_keeps_its_place() {
    let mut planner = BatchPlanner::new();
    let mut batches = started(&mut planner, &[&["A"], &["A"]]);
    started(&mut planner, &[&["A"]]);
    let Batch { jobs, lanes } = batches.remove(0);
    for job in jobs.into_iter().rev() {
        planner.put_back(job);
    }
    assert!(planner.start().is_empty(), "the lanes are still in use");
    planner.release(lanes);
    assert_eq!(arrivals(&planner.start()), [[0, 1, 2]]);
}

#[test]
fn an_order_that_is_to_be_alone_has_a_batch_of_its_own() {
    let mut planner = BatchPlanner::new();
    let mut batches = started(&mut planner, &[&["A"], &["A"], &["A"]]);
    let Batch { jobs, lanes } = batches.remove(0);
    planner.release(lanes);
    for mut job in jobs {
        job.alone = job.arrival() == 1;
        planner.put_back(job);
    }
    let mut batches = planner.start();
    assert_eq!(arrivals(&batches), [[0]]);
    let mut batches = ended(&mut planner, batches.remove(0));
    assert_eq!(arrivals(&batches), [[1]]);
    assert_eq!(arrivals(&ended(&mut planner, batches.remove(0))), [[2]]);
}

#[test]
fn waiting_orders_can_be_taken_out_while_batches_run() {
    let mut planner = BatchPlanner::new();
    let mut batches = started(&mut planner, &[&["A"]]);
    started(&mut planner, &[&["A"], &["A", "B"]]);
    assert_eq!(planner.take_waiting().len(), 2);
    assert!(ended(&mut planner, batches.remove(0)).is_empty());
    assert_eq!(arrivals(&started(&mut planner, &[&["A", "B"]])), [[3]]);
    assert_eq!(planner.lanes.len(), 3, "unused lanes are removed");
}

proptest! {
    /// Any arrivals and any order of ends: no two running batches share a SKU, orders of one SKU
    /// start in the order of their arrival, every transaction is within the limits, and all orders
    /// are processed.
    #[test]
    fn batches_are_disjoint_ordered_within_limits_and_complete(
        orders in proptest::collection::vec(proptest::collection::btree_set(0_u8..6, 1..4), 1..120),
        choices in proptest::collection::vec(0_usize..8, 400),
    ) {
        let mut planner = BatchPlanner::new();
        let mut running: Vec<Batch<()>> = Vec::new();
        let mut last: HashMap<Sku, u64> = HashMap::new();
        let mut processed = 0;
        let mut arriving = orders.iter();
        let mut choices = choices.into_iter().cycle();
        loop {
            let mut is_idle = true;
            if let Some(skus) = arriving.next() {
                let names: Vec<String> = skus.iter().map(u8::to_string).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                planner.add(order(&names), ());
                is_idle = false;
            }
            let choice = choices.next().unwrap_or_default();
            if choice < running.len() {
                let batch = running.swap_remove(choice);
                planner.release(batch.lanes);
                is_idle = false;
            }
            for batch in planner.start() {
                let mut skus = HashSet::new();
                for job in &batch.jobs {
                    processed += 1;
                    for line in &job.order.items {
                        skus.insert(line.sku.clone());
                        let before = last.insert(line.sku.clone(), job.arrival());
                        prop_assert!(before.is_none_or(|before| before < job.arrival()));
                    }
                }
                prop_assert!(batch.jobs.len() <= MAX_ORDERS);
                prop_assert!(batch.jobs.len() + skus.len() <= MAX_ACTIONS);
                for other in &running {
                    let mut lines = other.jobs.iter().flat_map(|job| &job.order.items);
                    prop_assert!(!lines.any(|line| skus.contains(&line.sku)));
                }
                running.push(batch);
            }
            if is_idle {
                match running.pop() {
                    Some(batch) => planner.release(batch.lanes),
                    None => break,
                }
            }
        }
        prop_assert_eq!(processed, orders.len());
        prop_assert!(planner.lanes.is_empty() && planner.waiting.is_empty());
    }
}
