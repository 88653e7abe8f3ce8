use ostack_image::base::digest::Digest;
use ostack_image::layer::root::*;
use std::path::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let pool = Path::new("/tmp/dev/pool");
    std::fs::create_dir_all(pool).unwrap();
    let list = |f: &str| -> Vec<PackageFile> {
        std::fs::read_to_string(f).unwrap().lines().map(|l| {
            let (d, _) = Digest::of_file(Path::new(l)).unwrap();
            let p = pool.join(d.hex());
            if !p.exists() { std::fs::hard_link(l, &p).unwrap(); }
            PackageFile { name: Path::new(l).file_name().unwrap().to_string_lossy().into(), digest: d, path: p }
        }).collect()
    };
    let text = std::fs::read_to_string("recipes/releases/epoxy-debian13.toml").unwrap();
    let release = ostack_image::model::release::parse(&ostack_image::model::Source { file: Path::new("r"), text: &text }).unwrap();
    let t = std::time::Instant::now();
    let packages = list(&a[2]);
    eprintln!("hash {:?}", t.elapsed());
    let job = Job { packages: &packages, pool: pool.into(), release: &release, debconf: &[], epoch: 1_780_000_000 };
    let r = match a[1].as_str() {
        "base" => job.build_base(Path::new(&a[3])),
        _ => job.build_packages(Path::new(&a[3]), Path::new(&a[4]), Path::new(&a[5]), Path::new(&a[6])),
    };
    eprintln!("{:?}", t.elapsed());
    if let Err(e) = r { eprintln!("{e}"); std::process::exit(1) }
}
