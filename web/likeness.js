/* What the editor does not do by itself for our nodes.

   - When one is done, what it shows takes the live preview's place.
   - The classic canvas hides advanced inputs until somebody asks for them, as Nodes 2.0 does.
   - A training node's numbers are those of its preset, also when another is chosen or connected.
   - Of a size that is chosen and the number that older workflows have for it, the one that counts is shown.
   - A saved likeness is chosen by its name, base, method and day, where the editor can show more than names. */

import { app } from "../../scripts/app.js";

const OURS = /^Likeness/;
const REVOKED_BY = 700; // milliseconds: newer editors let go of a preview a little later

/** The editor's store of what nodes show; undefined in an editor that keeps it elsewhere. */
function shownByNodes() {
  const root = document.querySelector("#vue-app")?.__vue_app__;
  return root?.config?.globalProperties?.$pinia?._s?.get("nodeOutput");
}

/** The node of an execution id such as 5, or 12:5 for one inside a subgraph. */
function nodeOf(id) {
  const parts = String(id).split(":").map(Number);
  const graph = parts
    .slice(0, -1)
    .reduce((inside, part) => inside?.getNodeById?.(part)?.subgraph, app.graph);
  return graph?.getNodeById?.(parts.at(-1));
}

function showTheEnd({ detail }) {
  const id = String(detail.display_node ?? detail.node);
  const node = nodeOf(id);
  if (!node || !OURS.test(node.comfyClass ?? node.type ?? "") || !detail.output?.images) return;
  const shown = shownByNodes();
  shown?.revokePreviewsByExecutionId?.(id);
  setTimeout(() => {
    const outputs = shown?.nodeOutputs;
    const place = node.graph?.isRootGraph === false ? `${node.graph.id}:${node.id}` : String(node.id);
    if (outputs?.[place]) outputs[place] = { ...outputs[place] }; // so that Nodes 2.0 looks again too
    node.images = node.preview = undefined; // the canvas looks again at what there is to show
    node.setDirtyCanvas?.(true, true);
  }, REVOKED_BY);
}

const AUTOMATIC = "automatic";
const DEMO = "LikenessMiniature";
const DEMO_PRESETS = { "FLUX.2": "miniature-2" }; // by its architecture; else the first Miniature's

const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

/** A training node's numbers by preset, as its schema says. */
const numbersOf = (node) => node.constructor?.nodeData?.input?.required?.preset?.[1]?.numbers;

function presetOf(node) {
  const chosen = widgetOf(node, "preset")?.value;
  if (chosen !== AUTOMATIC) return chosen;
  const slot = node.inputs?.findIndex((input) => input.name === "model") ?? -1;
  const source = slot < 0 ? null : node.getInputNode?.(slot);
  if ((source?.comfyClass ?? source?.type) !== DEMO) return "default";
  return DEMO_PRESETS[widgetOf(source, "architecture")?.value] ?? "miniature";
}

/** Another architecture of the demo model: the nodes that learn on it show its numbers. */
function tellLearners(demo) {
  for (const id of demo.outputs?.[0]?.links ?? []) {
    const learner = demo.graph?.getNodeById?.(demo.graph.getLink?.(id)?.target_id);
    if (learner && numbersOf(learner)) fillIn(learner, false);
  }
}

/** Puts the preset's numbers into the widgets; what somebody typed stays where a preset is only guessed. */
function fillIn(node, chosen) {
  const numbers = numbersOf(node);
  const wanted = numbers?.[presetOf(node)];
  for (const [name, value] of Object.entries(wanted ?? {})) {
    const widget = widgetOf(node, name);
    const untouched = Object.values(numbers).some((preset) => preset[name] === widget?.value);
    if (widget && (chosen || untouched)) widget.value = value;
  }
  node.setDirtyCanvas?.(true, true);
}

const MORE = "show advanced inputs";
const NOTHING = () => [0, -4]; // with the gap between widgets: no height at all

const advancedOf = (node) => (node.widgets ?? []).filter((widget) => widget.options?.advanced);

/** Whether a cable ends in the widget: what is connected stays in sight. */
const isLinked = (node, widget) =>
  node.inputs?.some((input) => input.widget?.name === widget.name && input.link != null);

function hide(widget, hidden) {
  widget.hidden = hidden;
  // older canvases leave room for hidden widgets
  if (hidden) widget.computeSize = NOTHING;
  else if (widget.computeSize === NOTHING) delete widget.computeSize;
}

const CHOSEN = "picture_size";
const OLDER = ["resolution", "size"]; // numbers that go before the choice where they are not 0

/** The widget that does not count: the choice where an older workflow has its number, else that number. */
function idleOf(node) {
  const choice = widgetOf(node, CHOSEN);
  const number = choice && node.widgets.find((widget) => OLDER.includes(widget.name));
  if (!number) return null;
  return number.value || isLinked(node, number) ? choice : number;
}

/** For Nodes 2.0, which goes by the options; the classic canvas goes by `hidden`. */
function showWhatCounts(node) {
  const idle = idleOf(node);
  if (!idle || idle.options.hidden) return;
  for (const widget of node.widgets) {
    if (widget.name === CHOSEN || OLDER.includes(widget.name)) widget.options.hidden = widget === idle;
  }
  settle(node);
}

/** In the classic canvas: a button for the advanced inputs, at the end, where it is in no workflow's values. */
function offerAdvanced(node) {
  if (!advancedOf(node).length || widgetOf(node, MORE)) return;
  const button = node.addWidget("button", MORE, null, () => {
    node.properties["advanced inputs"] = !node.properties["advanced inputs"];
    settle(node);
  });
  button.serialize = false;
  button.options.serialize = false;
  settle(node);
}

/** Shows or hides as the node says, and gives it the height for it. */
function settle(node) {
  const button = widgetOf(node, MORE);
  if (!button) return;
  const shown = Boolean(node.properties?.["advanced inputs"]);
  const idle = idleOf(node);
  for (const widget of advancedOf(node)) {
    hide(widget, widget === idle || (!shown && !isLinked(node, widget)));
  }
  button.label = shown ? "hide advanced inputs" : MORE;
  node.setSize?.([node.size[0], node.computeSize()[1]]);
  node.setDirtyCanvas?.(true, true);
}

/** Nodes 2.0 has a button of its own. */
function leaveToEditor(node) {
  const place = node.widgets?.indexOf(widgetOf(node, MORE)) ?? -1;
  if (place < 0) return;
  node.widgets.splice(place, 1);
  for (const widget of advancedOf(node)) hide(widget, false);
}

const LOAD = "LikenessLoad";
let files = {}; // what is known of them, by their listed names; news come when the lists are refreshed

function tellFiles(node) {
  const widget = widgetOf(node, "name");
  if (!widget?.options) return;
  widget.options.getOptionLabel = (file) =>
    files[file] ? `${file.replace(/\.safetensors$/, "")} · ${files[file]}` : String(file ?? "");
}

const everyNode = (graph) =>
  (graph?._nodes ?? []).flatMap((node) => [node, ...everyNode(node.subgraph)]);

function onRenderer({ detail }) {
  const newer = Boolean(detail?.value ?? window.LiteGraph?.vueNodesMode);
  for (const node of everyNode(app.graph)) {
    if (OURS.test(node.comfyClass ?? "")) (newer ? leaveToEditor : offerAdvanced)(node);
  }
}

const after = (object, name, then) => {
  const before = object[name];
  object[name] = function (...all) {
    const result = before?.apply(this, all);
    then.apply(this, all);
    return result;
  };
};

app.registerExtension({
  name: "likeness.nodes",
  setup() {
    app.api.addEventListener("executed", showTheEnd);
    app.ui?.settings?.addEventListener?.("Comfy.VueNodes.Enabled.change", onRenderer);
  },
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!OURS.test(nodeData.name)) return;
    if (nodeData.name === LOAD) files = nodeData.input?.required?.name?.[1]?.about ?? files;
    after(nodeType.prototype, "onNodeCreated", function () {
      const preset = widgetOf(this, "preset");
      if (preset && numbersOf(this)) {
        after(preset, "callback", () => fillIn(this, preset.value !== AUTOMATIC));
      }
      for (const name of OLDER) {
        const number = widgetOf(this, CHOSEN) && widgetOf(this, name);
        if (number) after(number, "callback", () => showWhatCounts(this));
      }
      showWhatCounts(this);
      if (nodeData.name === LOAD) tellFiles(this);
      const architecture = nodeData.name === DEMO && widgetOf(this, "architecture");
      if (architecture) after(architecture, "callback", () => tellLearners(this));
      if (!window.LiteGraph?.vueNodesMode) offerAdvanced(this);
    });
    after(nodeType.prototype, "onConfigure", function () {
      showWhatCounts(this);
      settle(this);
    });
    after(nodeType.prototype, "onConnectionsChange", function (side, slot, connected) {
      // without a graph it is being copied, into a subgraph for one
      showWhatCounts(this);
      const opening = app.configuringGraph || !this.graph || this.graph._configuring;
      if (connected && !opening && this.inputs?.[slot]?.name === "model" && side === 1) fillIn(this, false);
    });
  },
});
