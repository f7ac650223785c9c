//! Backbone, neck, RPN and ROI heads.
