from aligndetr.data.noise import noise_images, noise_targets


def test_images_have_the_size_and_no_padding() -> None:
    images = noise_images(2, (32, 48))
    assert images.pixels.shape == (2, 3, 32, 48)
    assert images.padding is None
    assert images.sizes.tolist() == [[32, 48], [32, 48]]


def test_objects_lie_in_their_image() -> None:
    targets = noise_targets(2, 5, 3)
    assert targets.counts == (5, 5)
    assert set(targets.labels.tolist()) <= {0, 1, 2}
    assert ((targets.boxes >= 0.3) & (targets.boxes <= 0.6)).all()


def test_there_may_be_none() -> None:
    assert noise_targets(2, 0, 3).counts == (0, 0)
