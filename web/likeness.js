/* What the editor does not do by itself for our nodes: when one is done, what it shows takes the live
   preview's place. */

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

app.registerExtension({
  name: "likeness.nodes",
  setup() {
    app.api.addEventListener("executed", showTheEnd);
  },
});
