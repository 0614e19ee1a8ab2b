"""Options by name: what `--model` implies, and the published recipes that `--preset` sets, as command lines.

Each preset is tested layer by layer in tests/training/test_presets.py.
"""

from __future__ import annotations

_CUT = (
    "--dataset_mode unaligned --netG resnet_9blocks --netD basic --norm instance --downsampling blur --upsampling blur "
    "--init_type xavier --gan_mode lsgan --pool_size 0 --n_epochs 200 --n_epochs_decay 200"
)
_PIX2PIX = "--netG unet_256 --norm batch --gan_mode vanilla --pool_size 0"

MODEL_DEFAULTS = {
    "cycle_gan": "--dataset_mode unaligned --netG resnet_9blocks --norm instance --pool_size 50",
    "cut": _CUT,
    "pix2pix": f"--dataset_mode aligned {_PIX2PIX}",
    "colorization": f"--dataset_mode colorization {_PIX2PIX}",
    "super_resolution": "--dataset_mode super_resolution --preprocess crop --crop_size 128 --batch_size 16 "
    "--netG srresnet --netD vgg --norm batch --init_type default --gan_mode vanilla --lambda_pixel 1 --lambda_gan 1e-3 "
    "--lr_policy step --beta1 0.9",
    "style": "--dataset_mode single --batch_size 4 --netG transformer --init_type default "
    "--lr 1e-3 --lr_policy constant --n_epochs 2 --n_epochs_decay 0 --beta1 0.9",
    "distillation": "--dataset_mode distillation --preprocess crop --batch_size 4 "
    "--netG resnet_6blocks --ngf 16 --norm instance --init_type default --compile "
    "--pixel_loss multiscale_l1 --lambda_pixel 1 --lambda_gan 0 --max_minutes 40 --save_latest_freq 200 "
    "--lr 1e-3 --lr_policy cosine --warmup_steps 100 --beta1 0.9 --beta2 0.99",
}

PRESETS = {
    # CycleGAN (Zhu et al., arXiv:1703.10593) as its authors' code has it.
    "cyclegan": "--model cycle_gan --netG resnet_9blocks --netD basic --gan_mode lsgan --lambda_identity 0.5 "
    "--pool_size 50",
    # CycleGAN from convolution blocks: strided convolutions and discriminator padded by reflection, sigmoid output.
    "cyclegan-conv-blocks": "--model cycle_gan --netG resnet_9blocks --downsampling_padding reflect --netD reflect "
    "--gan_mode lsgan --lambda_identity 0.5 --discriminator_first --pool_size 0 --lr_policy constant",
    # CycleGAN with resize-convolution: pairs of terms averaged, the discriminator's output is side / 16.
    "cyclegan-resize-convolution": "--model cycle_gan --netG resnet_9blocks --upsampling nearest --netD zero_pad "
    "--gan_mode lsgan --lambda_identity 0.5 --average_pairs --pool_size 50",
    # CycleGAN with U-Nets: discriminators before generators, BCE.
    "cyclegan-unet": "--model cycle_gan --netG unet_256 --netD basic --gan_mode vanilla --discriminator_first",
    # CUT and FastCUT (Park et al., arXiv:2007.15651).
    "cut": "--model cut --lambda_gan 1 --lambda_NCE 1 --nce_idt true --n_epochs 200 --n_epochs_decay 200",
    "fastcut": "--model cut --lambda_gan 1 --lambda_NCE 10 --nce_idt false --flip_equivariance true "
    "--n_epochs 150 --n_epochs_decay 50",
    # pix2pix (Isola et al., arXiv:1611.07004), and its discriminators of other receptive fields.
    "pix2pix": "--model pix2pix --netG unet_256 --netD basic --norm batch --lambda_pixel 100",
    "pix2pix-1": "--model pix2pix --netG unet_256 --netD pixel --norm batch",
    "pix2pix-16": "--model pix2pix --netG unet_256 --netD n_layers --n_layers_D 1 --norm batch",
    "pix2pix-286": "--model pix2pix --netG unet_256 --netD n_layers --n_layers_D 5 --norm batch",
    # Without a discriminator: better where the output is a map of labels.
    "pix2pix-l1": "--model pix2pix --netG unet_256 --norm batch --lambda_gan 0 --lambda_pixel 100",
    "colorization": "--model colorization --netG unet_256 --netD basic --norm batch",
    # Super-resolution: pixel + perceptual + adversarial, the last at 1e-3 of the first.
    "srgan": "--model super_resolution --netG srresnet --netD vgg --gan_mode vanilla",
    "srgan-patch": "--model super_resolution --netG srresnet --netD basic --gan_mode lsgan",
    "esrgan": "--model super_resolution --netG rrdbnet --netD vgg --gan_mode ragan",
    "real-esrgan": "--model super_resolution --netG rrdbnet --netD unet --gan_mode vanilla",
    # Pixel loss alone: the highest PSNR.
    "srresnet": "--model super_resolution --netG srresnet --lambda_gan 0",
    # Feed-forward style (Johnson et al., arXiv:1603.08155).
    "fast-style": "--model style --netG transformer",
}
