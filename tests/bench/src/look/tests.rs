use super::*;

fn good() -> (Seen, Picture) {
    let chart = Chart { area: 100_000.0, bars: 3, outside: 0 };
    (Seen { charts: vec![chart.clone(), chart], fetched: 0, wide: false, rows: 9 }, Picture { colours: 80, ours: 9000 })
}

#[test]
fn a_page_that_nobody_can_read_does_not_pass() {
    let (seen, picture) = good();
    judge(&seen, picture, 2).unwrap();
    let spoil: [fn(&mut Seen, &mut Picture); 8] = [
        |seen, _| seen.charts.truncate(1),
        |seen, _| seen.charts[1].bars = 0,
        |seen, _| seen.charts[0].area = 0.0,
        |seen, _| seen.charts[0].outside = 1,
        |seen, _| seen.fetched = 1,
        |seen, _| seen.wide = true,
        |_, picture| picture.colours = 2,
        |_, picture| picture.ours = 0,
    ];
    for (number, spoil) in spoil.into_iter().enumerate() {
        let (mut seen, mut picture) = good();
        spoil(&mut seen, &mut picture);
        assert!(judge(&seen, picture, 2).is_err(), "{number}: {seen:?} {picture:?}");
    }
}

#[test]
fn charts_can_be_emptied() {
    let page = "<p>a<svg width=\"1\"><rect/></svg>b<svg><path/></svg>c";
    assert_eq!(without_shapes(page), "<p>a<svg width=\"1\"></svg>b<svg></svg>c");
}
