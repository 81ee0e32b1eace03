"""DICOM files of an answer: its lesions as a segmentation, and the outlined picture as a secondary capture."""

import hashlib
import io
from typing import Any

import highdicom as hd
import numpy as np
import PIL.Image
import pydicom
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from .answers import Answer
from .inputs import WRITER
from .visualization import answer_picture

MANUFACTURER, MODEL = "sfrecsam-hf", "SF-RecSAM"
SCAN_SERIES, SEGMENTATION_SERIES, CAPTURE_SERIES = 1, 100, 101
IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# What a file takes over from the scan, and what highdicom calls it.
PATIENT_AND_STUDY = {
    "PatientID": "patient_id",
    "PatientName": "patient_name",
    "PatientBirthDate": "patient_birth_date",
    "PatientSex": "patient_sex",
    "StudyInstanceUID": "study_instance_uid",
    "StudyDate": "study_date",
    "StudyTime": "study_time",
    "StudyID": "study_id",
    "AccessionNumber": "accession_number",
    "ReferringPhysicianName": "referring_physician_name",
}


def segmentation_files(answer: Answer) -> dict[str, bytes]:
    """A DICOM segmentation, a segment for each lesion; with the scan it refers to, if that was no DICOM file."""
    scan, own = _scan(answer)
    spacing = None if answer.spacing is None else hd.PixelMeasuresSequence(answer.spacing, slice_thickness=1.0)
    algorithm = hd.AlgorithmIdentificationSequence(name=MODEL, version="1", family=codes.DCM.ArtificialIntelligence)
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"{answer.label} {number}",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number in range(1, max(len(answer.found.lesions), 1) + 1)
    ]
    segmentation = hd.seg.Segmentation(
        source_images=[scan],
        pixel_array=answer.labels(),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=_identifier(answer, "segmentation series"),
        series_number=SEGMENTATION_SERIES,
        sop_instance_uid=_identifier(answer, "segmentation"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL,
        software_versions=WRITER,
        device_serial_number="0",
        pixel_measures=spacing,
    )
    files = {"_seg.dcm": _bytes(segmentation)}
    return files | {"_scan.dcm": _bytes(scan)} if own else files


def capture_file(answer: Answer) -> dict[str, bytes]:
    """The outlined scan as a secondary capture, in the study of the scan."""
    scan, _ = _scan(answer)
    picture = answer_picture(answer.scan, answer.found, [answer.spacing] * len(answer.found.lesions))
    about = {name: scan.get(name) or None for name in PATIENT_AND_STUDY}
    return {"_overlay.dcm": _bytes(_capture(picture, about, _identifier(answer, "overlay"), CAPTURE_SERIES))}


def _scan(answer: Answer) -> tuple[pydicom.Dataset, bool]:
    """
    The data set of the scan, and whether it was made here: because there is no DICOM file with identifiers, or because
    the scan is one frame of it, which cannot be referred to alone as an ultrasound clip has no geometry of its frames.
    """
    known: dict[str, Any] = {}
    if answer.source is not None:
        header = pydicom.dcmread(answer.source, stop_before_pixels=True)
        if int(header.get("NumberOfFrames") or 1) > 1:
            known = {name: header.get(name) or None for name in PATIENT_AND_STUDY}
        elif all(header.get(name) for name in IDENTIFIERS):
            dataset = pydicom.dcmread(answer.source)
            for name in PATIENT_AND_STUDY:
                if name not in dataset:
                    setattr(dataset, name, "")
            if not dataset.get("Modality"):
                dataset.Modality = "OT"  # required, and asked for, but missing in some files
            if "PixelSpacing" in dataset:  # a segmentation would ask for a slice thickness, too; it states its own
                del dataset.PixelSpacing
            return dataset, False
    pixels = hashlib.sha256(answer.scan.tobytes()).hexdigest()
    study, instance = (generate_uid(entropy_srcs=[answer.name, pixels, role]) for role in ("study", "scan"))
    known["StudyInstanceUID"] = known.get("StudyInstanceUID") or study
    return _capture(answer.scan, known, instance, SCAN_SERIES), True


def _capture(picture: PIL.Image.Image, about: dict[str, Any], instance: str, series: int) -> pydicom.Dataset:
    capture = hd.sc.SCImage(
        pixel_array=np.asarray(picture.convert("RGB")),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=generate_uid(entropy_srcs=[instance, "series"]),
        series_number=series,
        sop_instance_uid=instance,
        instance_number=1,
        manufacturer=MANUFACTURER,
        patient_orientation=("L", "F"),
        **{PATIENT_AND_STUDY[name]: value for name, value in about.items()},
    )
    capture.SoftwareVersions = WRITER
    return capture


def _identifier(answer: Answer, role: str) -> str:
    """The same for the same answer to the same scan."""
    content = hashlib.sha256(answer.scan.tobytes() + answer.found.mask.tobytes()).hexdigest()
    return generate_uid(entropy_srcs=[answer.name, content, role])


def _bytes(dataset: pydicom.Dataset) -> bytes:
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()
