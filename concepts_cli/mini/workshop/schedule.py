"""The noise schedule of training and sampling."""

from diffusers import DDIMScheduler


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of training and sampling: only noise at the last step, so sampling takes "trailing" steps."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
