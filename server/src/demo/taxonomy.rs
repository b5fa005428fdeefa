//! Departments and categories with their place in content space.

use super::DIM;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

/// Departments with their IAB content category (taxonomy 1.0), a typical price in units, and kinds of things.
const DEPARTMENTS: [(&str, &str, f64, [&str; 10]); 20] = [
    (
        "Cars",
        "IAB2",
        60.0,
        [
            "Roof Box",
            "Tyre Set",
            "Dash Camera",
            "Seat Cover",
            "Car Vacuum",
            "Jump Starter",
            "Wiper Set",
            "Phone Mount",
            "Floor Mat",
            "Bike Rack",
        ],
    ),
    (
        "Books",
        "IAB1",
        16.0,
        [
            "Novel",
            "Cookbook",
            "Travel Guide",
            "Comic",
            "Biography",
            "Thriller",
            "Picture Book",
            "Poetry",
            "Atlas",
            "Notebook",
        ],
    ),
    (
        "Office",
        "IAB3",
        25.0,
        [
            "Desk Lamp",
            "Office Chair",
            "Printer",
            "Label Maker",
            "Whiteboard",
            "Paper Set",
            "Stapler",
            "Shredder",
            "Planner",
            "Desk Mat",
        ],
    ),
    (
        "Careers",
        "IAB4",
        90.0,
        [
            "Language Course",
            "Coding Course",
            "Interview Guide",
            "Resume Service",
            "Design Course",
            "Exam Prep",
            "Sales Training",
            "Writing Course",
            "Data Course",
            "Speaking Class",
        ],
    ),
    (
        "School",
        "IAB5",
        20.0,
        [
            "Backpack",
            "Pencil Case",
            "Calculator",
            "Globe",
            "Paint Set",
            "Microscope",
            "Flash Cards",
            "Ruler Set",
            "Lunch Box",
            "Puzzle",
        ],
    ),
    (
        "Family",
        "IAB6",
        35.0,
        [
            "Stroller",
            "Baby Monitor",
            "Toy Train",
            "Car Seat",
            "Play Mat",
            "Building Blocks",
            "Night Light",
            "Baby Carrier",
            "Doll House",
            "Board Game",
        ],
    ),
    (
        "Health",
        "IAB7",
        22.0,
        [
            "Vitamin Pack",
            "Massage Gun",
            "Blood Monitor",
            "Sleep Mask",
            "First Aid Kit",
            "Foam Roller",
            "Humidifier",
            "Heating Pad",
            "Eye Drops",
            "Thermometer",
        ],
    ),
    (
        "Food",
        "IAB8",
        14.0,
        [
            "Coffee Beans",
            "Olive Oil",
            "Tea Sampler",
            "Chocolate Box",
            "Hot Sauce",
            "Pasta Set",
            "Spice Rack",
            "Honey Jar",
            "Snack Box",
            "Granola",
        ],
    ),
    (
        "Hobbies",
        "IAB9",
        30.0,
        [
            "Guitar",
            "Drone",
            "Chess Set",
            "Sewing Machine",
            "Model Kit",
            "Telescope",
            "Paint by Number",
            "Card Deck",
            "Yarn Pack",
            "Camera Strap",
        ],
    ),
    (
        "Home",
        "IAB10",
        55.0,
        [
            "Sofa Cover",
            "Bookshelf",
            "Area Rug",
            "Table Lamp",
            "Curtain Set",
            "Air Fryer",
            "Knife Block",
            "Bed Sheet",
            "Garden Hose",
            "Tool Box",
        ],
    ),
    (
        "Finance",
        "IAB13",
        12.0,
        [
            "Budget Planner",
            "Tax Guide",
            "Coin Album",
            "Safe Box",
            "Receipt Scanner",
            "Investing Book",
            "Money Clip",
            "Card Wallet",
            "Ledger Book",
            "Piggy Bank",
        ],
    ),
    (
        "Society",
        "IAB14",
        18.0,
        [
            "Party Kit",
            "Gift Card",
            "Greeting Cards",
            "Wedding Album",
            "Photo Frame",
            "Candle Set",
            "Gift Basket",
            "Invitation Set",
            "Guest Book",
            "Balloon Pack",
        ],
    ),
    (
        "Science",
        "IAB15",
        40.0,
        [
            "Chemistry Set",
            "Weather Station",
            "Robot Kit",
            "Star Map",
            "Rock Collection",
            "Solar Kit",
            "Lab Coat",
            "Circuit Kit",
            "Prism",
            "Fossil Kit",
        ],
    ),
    (
        "Pets",
        "IAB16",
        24.0,
        [
            "Dog Bed",
            "Cat Tree",
            "Aquarium",
            "Bird Feeder",
            "Leash",
            "Pet Camera",
            "Chew Toy",
            "Litter Box",
            "Pet Carrier",
            "Grooming Kit",
        ],
    ),
    (
        "Sports",
        "IAB17",
        70.0,
        [
            "Ski Jacket",
            "Running Shoes",
            "Yoga Mat",
            "Tennis Racket",
            "Tent",
            "Bike Helmet",
            "Dumbbell Set",
            "Soccer Ball",
            "Swim Goggles",
            "Climbing Rope",
        ],
    ),
    (
        "Fashion",
        "IAB18",
        45.0,
        [
            "Sneakers",
            "Leather Bag",
            "Wool Coat",
            "Summer Dress",
            "Silver Ring",
            "Sun Glasses",
            "Denim Jacket",
            "Silk Scarf",
            "Watch",
            "Ankle Boots",
        ],
    ),
    (
        "Tech",
        "IAB19",
        180.0,
        [
            "Laptop",
            "Headphones",
            "Phone Case",
            "Monitor",
            "Keyboard",
            "Smart Watch",
            "Router",
            "Power Bank",
            "Tablet",
            "Webcam",
        ],
    ),
    (
        "Travel",
        "IAB20",
        110.0,
        [
            "Suitcase",
            "Neck Pillow",
            "Travel Adapter",
            "Packing Cubes",
            "Hiking Pack",
            "Passport Case",
            "Rain Poncho",
            "City Pass",
            "Toiletry Bag",
            "Luggage Scale",
        ],
    ),
    (
        "Living",
        "IAB21",
        130.0,
        [
            "Door Lock",
            "Smoke Alarm",
            "Paint Bucket",
            "Moving Boxes",
            "Shower Head",
            "Radiator",
            "Window Film",
            "Mail Box",
            "Door Bell",
            "Wall Mount",
        ],
    ),
    (
        "Shopping",
        "IAB22",
        28.0,
        [
            "Gift Set",
            "Tote Bag",
            "Beauty Box",
            "Mystery Box",
            "Perfume",
            "Make-up Kit",
            "Hair Dryer",
            "Soap Set",
            "Nail Kit",
            "Coupon Book",
        ],
    ),
];

/// One category: a kind of thing in a department.
#[derive(Clone, Debug)]
pub struct Category {
    /// What its items are called.
    pub name: &'static str,
    /// IAB code, for example `IAB17-3`.
    pub code: String,
    /// Typical price, units.
    pub price: f64,
    /// Centre of its items' content vectors, length 1.
    pub centre: Vec<f32>,
}

/// All categories.
#[derive(Clone, Debug)]
pub struct Taxonomy {
    /// By number.
    pub categories: Vec<Category>,
}

/// `base` moved by noise of `spread` in every direction, normalised.
pub(super) fn near(base: &[f32], spread: f32, rng: &mut StdRng) -> Vec<f32> {
    #[expect(clippy::cast_precision_loss, reason = "a small dimension")]
    let scale = spread / (DIM as f32).sqrt();
    let mut vector: Vec<f32> = base.iter().map(|x| x + scale * rng.sample::<f32, _>(StandardNormal)).collect();
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-6);
    vector.iter_mut().for_each(|x| *x /= length);
    vector
}

/// An index below `len`, small ones more often: a uniform draw to the power of `power`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
pub(super) fn skewed(rng: &mut StdRng, power: f64, len: usize) -> usize {
    let uniform: f64 = rng.random();
    ((uniform.powf(power) * len as f64) as usize).min(len.saturating_sub(1))
}

impl Default for Taxonomy {
    fn default() -> Self {
        Self::new()
    }
}

impl Taxonomy {
    /// The same 200 categories, in the same places of content space, for every world: a model's projection of content holds for
    /// all of them. Those of a department lie near each other.
    #[must_use]
    pub fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(0x7a01);
        let mut categories = Vec::with_capacity(200);
        for (_, code, price, names) in &DEPARTMENTS {
            let department = near(&[0.0; DIM], 1.0, &mut rng);
            for (name, sub) in names.iter().zip(1..) {
                let centre = near(&department, 1.5, &mut rng);
                categories.push(Category { name, code: format!("{code}-{sub}"), price: *price, centre });
            }
        }
        Self { categories }
    }
}
