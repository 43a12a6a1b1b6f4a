//! A device's name: one damaged place never costs it, and when it is lost everywhere nobody's name is put in its place.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Scene, Seen, alone, flip, template, truncate};

/// Damages every copy of every name in a file.
fn damage_names(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap();
    let places = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(b"strap-"));
    places.map(|at| flip(path, at as u64 * 8 + 1)).count()
}

#[test]
fn names_that_are_damaged_in_one_place_are_known_from_the_other() {
    let _alone = alone();
    for number in [1, template().head] {
        let scene = Scene::new();
        let copies = damage_names(&scene.generation(number).join("db"));
        assert!(copies >= 20, "{copies} copies of names in the database");
        let what = format!("every name in gen-{number}'s database");
        template().hold(&what, &scene.read(&what), Some(0));

        let scene = Scene::new();
        assert_eq!(damage_names(&scene.generation(number).join("names")), 20, "once for each device");
        let what = format!("every name beside gen-{number}'s database");
        template().hold(&what, &scene.read(&what), Some(0));

        // The database is made anew without its oldest names' last copies.
        let scene = Scene::new();
        let db = scene.generation(number).join("db");
        truncate(&db, fs::metadata(&db).unwrap().len() / 2);
        damage_names(&db);
        let what = format!("gen-{number} cut in half, and every name in what is left");
        template().hold(&what, &scene.read(&what), None);
        // What was salvaged keeps them twice as well.
        let db = scene.spool().join(format!("raw/gen-{number}.r1/db"));
        damage_names(&db);
        let what = format!("{what}, and once more");
        template().hold(&what, &scene.read(&what), None);
    }
}

/// No other generation's table is asked: numbers of devices mean something in their own generation only.
#[test]
fn where_every_copy_of_the_names_is_lost_each_device_has_a_stand_in_of_its_own() {
    let _alone = alone();
    let scene = Scene::new();
    damage_names(&scene.generation(1).join("db"));
    fs::remove_file(scene.generation(1).join("names")).unwrap();
    let mut seen = scene.read("no names");
    let mut stood_for: BTreeMap<String, String> = BTreeMap::new();
    let mut unnamed = 0;
    for (seq, got) in &mut seen.readings {
        if got.device.starts_with("unnamed-1-") {
            unnamed += 1;
            let device = &template().truth[seq].device;
            let before = stood_for.insert(got.device.clone(), device.clone());
            assert!(before.is_none_or(|before| before == *device), "{} is two devices", got.device);
            got.device.clone_from(device);
        }
    }
    assert_eq!(unnamed, template().counts[&1], "all of generation 1");
    assert_eq!(stood_for.len(), 20);
    template().hold("no names", &seen, Some(0));
    let told = seen.repaired.iter().find(|repaired| repaired.generation == 1).expect("a report");
    assert_eq!((told.unnamed, told.lost), (unnamed, 0), "the report counts them");
    let later: Seen = scene.read("no names, once more");
    assert!(later.repaired.is_empty(), "what cannot be had is not looked for at every start");
}
