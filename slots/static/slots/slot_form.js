// Another recipe has other settings: the form is drawn anew by the server, with all that was typed, and nothing is saved.
document.addEventListener("DOMContentLoaded", () => {
    const recipe = document.querySelector("select[name=recipe]");
    const redraw = document.querySelector("button[name=_redraw]");
    if (!recipe || !redraw) return;
    redraw.hidden = true;
    redraw.type = "button"; // or the Enter key would press it
    recipe.addEventListener("change", () => {
        redraw.type = "submit";
        redraw.click();
    });
});
