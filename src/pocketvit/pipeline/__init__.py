"""The main job, from images to a verified file and a report: a short list of stages."""
