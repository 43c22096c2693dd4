"""Names that the options of profile commands offer: steps, and what a column may say.

Nothing is imported here but the standard library, so that `--help` starts at once.
"""

from typing import Literal, get_args

Aggregate = Literal["mean", "median"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)
COMPONENTS = 128  # of the step `pca`, as EFAAR's benchmark takes
EFAAR = "efaar"  # relation tables of the installed package
Step = Literal[
    "standardize",
    "mad_robustize",
    "feature_select",
    "spherize",
    "tvn",
    "pca",
    "well_position",
    "combat",
    "harmony",
]
STEPS: tuple[Step, ...] = get_args(Step)
# what a column says -> its usual names, plain or after Metadata_; the first that is there is taken
USUAL = {
    "plate": ("Plate", "Assay_Plate_Barcode", "Barcode", "Plate_ID"),
    "well": ("Well", "Well_Position", "Well_ID"),
    "treatment": ("broad_sample", "Treatment", "JCP2022", "pert_iname", "Compound", "Gene"),
    "compound": ("pert_iname", "Compound", "Compound_Name", "broad_sample"),
    "concentration": ("Concentration", "mmoles_per_liter", "mg_per_ml", "Dose"),
    "control": ("control_type", "pert_type"),
    "batch": ("Batch", "Week", "Experiment"),
    "cell_type": ("Cell_Type", "Cell_Line"),
    "moa": ("moa",),
    "targets": ("target_list", "Targets", "Genes", "Gene", "Gene_Symbol"),
    "modality": ("Modality", "Perturbation", "Perturbation_Type"),
    "gene": ("Gene", "Gene_Symbol", "Symbol"),
    "count": ("Object_Count", "Cell_Count", "Count_Cells", "Cells_Count", "Count"),
}
