// An assistant's way to Dokploy, through its Model Context Protocol server: node mcp.mjs 'TOOL JSON' ...
// Calls the tools one after another and prints what they answered, a JSON array. In what a tool is given,
// <0.data.environmentId> stands for that part of the first answer.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { fileURLToPath } from "node:url";

const server = fileURLToPath(new URL("node_modules/@dokploy/mcp/build/index.js", import.meta.url));
const client = new Client({ name: "tests", version: "1" });
await client.connect(
  new StdioClientTransport({ command: process.execPath, args: [server], env: process.env, stderr: "ignore" }),
);
const answers = [];
for (const call of process.argv.slice(2)) {
  const [name, given = "{}"] = call.split(/ (.*)/s);
  const filled = given.replace(/<([\w.]+)>/g, (_, path) => path.split(".").reduce((at, key) => at[key], answers));
  const { content } = await client.callTool({ name, arguments: JSON.parse(filled) });
  answers.push(JSON.parse(content[0].text));
}
await client.close();
console.log(JSON.stringify(answers));
