import { Niivue, NVImage } from "@niivue/niivue";

window.niivue = { Niivue, NVImage };
