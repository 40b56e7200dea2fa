//! The GPUs of NVIDIA's driver: through its library, or else its command.

use domain::{node::GpuMetrics, resources::Gpu};
use nvml_wrapper::{Nvml, enum_wrappers::device::TemperatureSensor, error::NvmlError};
use std::{
    io::Read,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// A driver in trouble can keep its command waiting for ever.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Gpus {
    pub(super) list: Vec<Gpu>,
    pub(super) driver: Option<String>,
}

/// None at all on a machine without the driver, which is no fault.
pub(super) fn measure() -> Gpus {
    ask_library().unwrap_or_else(|_| ask_command().map(|answer| parse(&answer)).unwrap_or_default())
}

fn ask_library() -> Result<Gpus, NvmlError> {
    let library = Nvml::init()?;
    let mut list = Vec::new();
    for index in 0..library.device_count()? {
        let device = library.device_by_index(index)?;
        list.push(Gpu { id: device.uuid()?, model: device.name()?, memory_bytes: device.memory_info()?.total });
    }
    Ok(Gpus { list, driver: library.sys_driver_version().ok() })
}

/// What moves, by the library alone: its command takes too long for a heartbeat.
pub(super) struct Meter(Option<Nvml>);

impl Meter {
    pub(super) fn new() -> Self {
        Self(Nvml::init().ok())
    }

    /// What a GPU does not tell is left out; one that does not even say which it is, is too.
    pub(super) fn sample(&self) -> Vec<GpuMetrics> {
        let Some(library) = &self.0 else { return Vec::new() };
        let count = library.device_count().unwrap_or_default();
        let devices = (0..count).filter_map(|index| library.device_by_index(index).ok());
        devices
            .filter_map(|device| {
                let memory = device.memory_info().ok();
                Some(GpuMetrics {
                    id: device.uuid().ok()?,
                    usage_percent: device.utilization_rates().ok().map(|usage| usage.gpu),
                    memory_used_bytes: memory.as_ref().map(|memory| memory.used),
                    memory_bytes: memory.as_ref().map(|memory| memory.total),
                    temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok(),
                })
            })
            .collect()
    }
}

fn ask_command() -> Option<String> {
    let mut child = Command::new("nvidia-smi")
        .args(["--query-gpu=uuid,name,memory.total,driver_version", "--format=csv,noheader,nounits"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let until = Instant::now() + ANSWER_WITHIN;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break,
            Ok(None) if Instant::now() < until => sleep(Duration::from_millis(20)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
    // A line a GPU fits the pipe, so the command never waited for this.
    let mut answer = String::new();
    child.stdout?.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// `GPU-5e9f..., NVIDIA GeForce RTX 3090, 24576, 550.54` a line; memory in MiB.
fn parse(answer: &str) -> Gpus {
    let mut gpus = Gpus::default();
    for line in answer.lines() {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let &[id, ref model @ .., memory, driver] = fields.as_slice() else { continue };
        let Ok(mebibytes) = memory.parse::<u64>() else { continue };
        gpus.list.push(Gpu { id: id.to_owned(), model: model.join(", "), memory_bytes: mebibytes << 20 });
        gpus.driver = Some(driver.to_owned());
    }
    gpus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_answer_names_each_gpu() {
        let answer = "GPU-a1, NVIDIA GeForce RTX 3090, 24576, 550.54\nGPU-b2, Tesla T4, 15360, 550.54\n";
        let gpu = |id: &str, model: &str, mebibytes: u64| Gpu {
            id: id.into(),
            model: model.into(),
            memory_bytes: mebibytes << 20,
        };
        let expected = vec![gpu("GPU-a1", "NVIDIA GeForce RTX 3090", 24_576), gpu("GPU-b2", "Tesla T4", 15_360)];
        assert_eq!(parse(answer), Gpus { list: expected, driver: Some("550.54".into()) });
    }

    #[test]
    fn an_answer_that_names_no_gpu_is_none() {
        for answer in ["", "No devices were found\n", "GPU-a1, X, [N/A], 550.54\n"] {
            assert_eq!(parse(answer), Gpus::default(), "{answer}");
        }
    }
}
