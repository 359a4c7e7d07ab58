"""Tables that compare several sets of restored images: PSNR and SSIM, segmentation, landmarks."""
