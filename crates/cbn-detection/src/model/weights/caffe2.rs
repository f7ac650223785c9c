//! ResNets whose tensors Caffe2 and Detectron named, such as `ImageNetPretrained/MSRA/R-50.pkl`, from which detectron2's detectors are trained.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

/// Ends of names, and of detectron2's. A norm is batch norm (`bn`), most often without statistics, or group norm (`gn`).
const ENDS: [(&str, &str); 7] = [
    ("_bn_s", ".norm.weight"),
    ("_bn_b", ".norm.bias"),
    ("_bn_rm", ".norm.running_mean"),
    ("_bn_riv", ".norm.running_var"),
    ("_gn_s", ".norm.weight"),
    ("_gn_b", ".norm.bias"),
    ("_w", ".weight"),
];

/// Layers of a block, and detectron2's names for them.
const LAYERS: [(&str, &str); 4] =
    [("branch1", "shortcut"), ("branch2a", "conv1"), ("branch2b", "conv2"), ("branch2c", "conv3")];

/// The tensors under detectron2's names if they are Caffe2's.
///
/// A batch norm without statistics, which were folded into its scale and shift, gets a mean of 0 and a variance of 1, as in detectron2 0.6 `DetectionCheckpointer`. What is no convolution and no norm
/// of the network (the classifier, velocities, biases of convolutions) keeps its name.
pub(super) fn in_detectron2_names(tensors: BTreeMap<String, TensorData>) -> BTreeMap<String, TensorData> {
    if !tensors.contains_key("conv1_w") {
        return tensors;
    }
    let mut renamed = BTreeMap::new();
    for (name, tensor) in &tensors {
        let norm = name.strip_suffix("_bn_s").filter(|norm| !tensors.contains_key(&format!("{norm}_bn_rm")));
        let Some(scale) = norm.and_then(|_| detectron2_name(name)) else { continue };
        for (end, value) in [("mean", 0.0_f32), ("var", 1.0)] {
            let statistic = scale.replace(".norm.weight", &format!(".norm.running_{end}"));
            renamed.insert(statistic, TensorData::full(tensor.shape().to_vec(), value));
        }
    }
    renamed.extend(tensors.into_iter().map(|(name, tensor)| (detectron2_name(&name).unwrap_or(name), tensor)));
    renamed
}

/// `res2_0_branch2a_bn_s` is `res2.0.conv1.norm.weight`, `conv1_w` and `res_conv1_bn_s` are of the stem.
fn detectron2_name(name: &str) -> Option<String> {
    let (layer, end) = ENDS.iter().find_map(|&(end, theirs)| Some((name.strip_suffix(end)?, theirs)))?;
    if matches!(layer, "conv1" | "res_conv1") {
        return Some(format!("stem.conv1{end}"));
    }
    let mut parts = layer.split('_');
    let [stage, block, branch] = [parts.next()?, parts.next()?, parts.next()?];
    let is_block =
        stage.strip_prefix("res").is_some_and(|number| number.parse::<u8>().is_ok()) && parts.next().is_none();
    let (_, layer) = LAYERS.iter().find(|(theirs, _)| is_block && *theirs == branch)?;
    Some(format!("{stage}.{block}.{layer}{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names as detectron2 0.6 `convert_basic_c2_names` turns them.
    #[test]
    fn names_are_those_of_detectron2() {
        for (theirs, name) in [
            ("conv1_w", "stem.conv1.weight"),
            ("res_conv1_bn_s", "stem.conv1.norm.weight"),
            ("conv1_gn_b", "stem.conv1.norm.bias"),
            ("res2_0_branch1_w", "res2.0.shortcut.weight"),
            ("res3_3_branch2a_bn_b", "res3.3.conv1.norm.bias"),
            ("res4_22_branch2b_bn_riv", "res4.22.conv2.norm.running_var"),
            ("res5_2_branch2c_gn_s", "res5.2.conv3.norm.weight"),
        ] {
            assert_eq!(detectron2_name(theirs).as_deref(), Some(name));
        }
        for name in ["conv1_b", "pred_w", "fc1000_w", "fpn_inner_res2_2_sum_lateral_w", "res2_0_branch2a_w_momentum"] {
            assert_eq!(detectron2_name(name), None);
        }
    }

    #[test]
    fn folded_statistics_are_those_of_a_unit_normal() {
        let tensors = ["conv1_w", "res_conv1_bn_s", "res_conv1_bn_b", "conv1_gn_s"];
        let tensors = tensors.map(|name| (name.to_owned(), TensorData::full(vec![2], 0.5_f32)));
        let renamed = in_detectron2_names(tensors[..3].iter().cloned().collect());
        let value = |name: &str| renamed[name].as_slice::<f32>().unwrap()[0];
        assert_eq!(renamed.len(), 5);
        assert_eq!(value("stem.conv1.norm.weight"), 0.5);
        assert_eq!(value("stem.conv1.norm.running_mean"), 0.0);
        assert_eq!(value("stem.conv1.norm.running_var"), 1.0);
        // Group norm never had any.
        let grouped = in_detectron2_names([&tensors[0], &tensors[3]].into_iter().cloned().collect());
        assert_eq!(grouped.keys().collect::<Vec<_>>(), ["stem.conv1.norm.weight", "stem.conv1.weight"]);
    }
}
