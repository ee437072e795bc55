//! Several devices of one host.

use std::fmt;
use std::str::FromStr;

use super::{DeviceChoice, Optimisations, Precision, Runtime};
use crate::{Error, Result};

/// The devices asked for: one, or several of one kind that share the work.
///
/// Read from `cuda:0,cuda:1`, or from `cuda:all`. `cpu,cpu` is two runtimes on the CPU: no faster
/// than one, but work is shared out as it is between GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceList(Listed);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Listed {
    Each(Vec<DeviceChoice>),
    /// Every NVIDIA GPU of the machine.
    AllCuda,
}

impl Default for DeviceList {
    fn default() -> Self {
        DeviceChoice::default().into()
    }
}

impl From<DeviceChoice> for DeviceList {
    fn from(choice: DeviceChoice) -> Self {
        Self(Listed::Each(vec![choice]))
    }
}

impl FromStr for DeviceList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "cuda:all" {
            return Ok(Self(Listed::AllCuda));
        }
        let choices = text
            .split(',')
            .map(str::parse)
            .collect::<Result<Vec<DeviceChoice>, _>>()?;
        check(&choices).map_err(|reason| format!("{text:?}: {reason}"))?;
        Ok(Self(Listed::Each(choices)))
    }
}

/// Whether devices can share work: results must not depend on which of them does a part of it.
fn check(choices: &[DeviceChoice]) -> Result<(), String> {
    use std::mem::discriminant;
    for (index, choice) in choices.iter().enumerate() {
        if choices.len() > 1 && *choice == DeviceChoice::Auto {
            return Err("auto is one device; list them by number, or give cuda:all".into());
        }
        if discriminant(choice) != discriminant(&choices[0]) {
            return Err("devices of one kind expected, whose results are the same".into());
        }
        if *choice != DeviceChoice::Cpu && choices[..index].contains(choice) {
            return Err(format!("{choice} is listed twice"));
        }
    }
    Ok(())
}

impl fmt::Display for DeviceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Listed::AllCuda => f.write_str("cuda:all"),
            Listed::Each(choices) => {
                let names: Vec<String> = choices.iter().map(DeviceChoice::to_string).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl DeviceList {
    /// Opens each device, in order.
    ///
    /// # Errors
    /// As [`Runtime::new`], of the first that cannot be opened.
    pub fn open(&self, precision: Precision) -> Result<Vec<Runtime>> {
        self.open_with(precision, Optimisations::all())
    }

    /// As [`DeviceList::open`] with the optimisations of a set.
    ///
    /// # Errors
    /// As [`DeviceList::open`].
    pub fn open_with(
        &self,
        precision: Precision,
        optimisations: Optimisations,
    ) -> Result<Vec<Runtime>> {
        let choices = match &self.0 {
            Listed::Each(choices) => choices.clone(),
            Listed::AllCuda => (0..cuda_devices()?).map(DeviceChoice::Cuda).collect(),
        };
        let open = |choice| Runtime::with_optimisations(choice, precision, optimisations);
        choices.into_iter().map(open).collect()
    }

    /// The device of work that is not shared out; `what` names the work.
    ///
    /// # Errors
    /// [`Error::Usage`] for several devices.
    pub fn single(&self, what: &str) -> Result<DeviceChoice> {
        match &self.0 {
            Listed::Each(choices) if choices.len() == 1 => Ok(choices[0]),
            _ => Err(Error::Usage(format!(
                "device {self}: {what} runs on one device"
            ))),
        }
    }
}

/// How many NVIDIA GPUs there are, one at least.
fn cuda_devices() -> Result<usize> {
    // Opening the first one tells what a build without CUDA lacks.
    #[cfg(not(feature = "cuda"))]
    let found: std::result::Result<usize, Error> = Ok(1);
    #[cfg(feature = "cuda")]
    let found = custom_ops::cuda_devices();
    match found {
        Ok(count) if count > 0 => Ok(count),
        Ok(_) => Err(Error::Usage(
            "device cuda:all: this machine has no NVIDIA GPU; use the device cpu".into(),
        )),
        Err(error) => Err(Error::Usage(format!(
            "device cuda:all: {error}; use the device cpu"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_back_what_they_print() {
        for text in [
            "auto",
            "cpu",
            "cuda:1",
            "cuda:0,cuda:3",
            "cuda:all",
            "cpu,cpu",
        ] {
            assert_eq!(text.parse::<DeviceList>().unwrap().to_string(), text);
        }
        let gpus: DeviceList = "cuda,cuda:1".parse().unwrap();
        assert_eq!(gpus.to_string(), "cuda:0,cuda:1");
    }

    #[test]
    fn refuses_lists_whose_results_would_depend_on_the_sharing() {
        for (text, reason) in [
            ("cuda:0,cuda:0", "cuda:0 is listed twice"),
            ("cuda,cpu", "devices of one kind"),
            ("auto,cpu", "auto is one device"),
            ("cuda:0,", "unknown device"),
            ("", "unknown device"),
        ] {
            let error = text.parse::<DeviceList>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn opens_each_device_and_names_work_of_one() {
        let two: DeviceList = "cpu,cpu".parse().unwrap();
        assert_eq!(two.open(Precision::F32).unwrap().len(), 2);
        let error = two.single("profile").unwrap_err().to_string();
        assert_eq!(error, "device cpu,cpu: profile runs on one device");
        assert_eq!(
            DeviceList::default().single("profile").unwrap(),
            DeviceChoice::Auto
        );
    }
}
