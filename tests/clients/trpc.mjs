// A program written with @trpc/client, as Dokploy's own pages are: node trpc.mjs VERB [ARGUMENT]
// It prints one line of JSON.
import { createTRPCUntypedClient, httpBatchLink, httpBatchStreamLink, httpLink } from "@trpc/client";
import superjson from "superjson";

const { DOKPLOY_URL, DOKPLOY_API_KEY, LINK } = process.env;
const requests = [];
const link = { http: httpLink, batch: httpBatchLink, stream: httpBatchStreamLink }[LINK]({
  url: `${DOKPLOY_URL}/api/trpc`,
  transformer: superjson,
  headers: { "x-api-key": DOKPLOY_API_KEY },
  async fetch(url, options) {
    const answer = await fetch(url, options);
    requests.push({ method: options.method, path: new URL(url).pathname, status: answer.status });
    return answer;
  },
});
const api = createTRPCUntypedClient({ links: [link] });

const verbs = {
  async make(image) {
    const made = await api.mutation("project.create", { name: "Shop", description: null, when: new Date(0) });
    const { environmentId } = made.environment;
    const application = await api.mutation("application.create", { name: "web", environmentId });
    const { applicationId } = application;
    const [provider, environment] = await Promise.all([
      api.mutation("application.saveDockerProvider", {
        applicationId,
        dockerImage: image,
        username: null,
        password: null,
        registryUrl: null,
      }),
      api.mutation("application.saveEnvironment", {
        applicationId,
        env: `GREETING="hello ${LINK}"\nEMPTY=`,
        buildArgs: null,
        buildSecrets: null,
        createEnvFile: false,
      }),
    ]);
    const deployed = await api.mutation("application.deploy", { applicationId });
    const at = await api.query("application.one", { applicationId });
    return {
      applicationId,
      projectId: made.project.projectId,
      answers: [provider, environment, deployed === undefined],
      status: at.applicationStatus,
      createdAt: Number.isFinite(Date.parse(at.createdAt)),
    };
  },
  async redeploy(applicationId) {
    const deployed = await api.mutation("application.redeploy", { applicationId, title: "Again" });
    return { undefined: deployed === undefined };
  },
  // Four at once, two of which are refused: each gets its own answer.
  async read(applicationId) {
    const settled = await Promise.allSettled([
      api.query("application.one", { applicationId }),
      api.query("application.one", { applicationId: "nobody" }),
      api.query("settings.health"),
      api.query("application.one", {}),
    ]);
    const [one, missing, health, invalid] = settled.map((each) => each.value ?? each.reason);
    return {
      image: one.dockerImage,
      status: one.applicationStatus,
      deployments: one.deployments.map((each) => each.title),
      missing: missing.data,
      health,
      invalid: { ...invalid.data, named: invalid.constructor.name },
    };
  },
};

const [verb, argument] = process.argv.slice(2);
console.log(JSON.stringify({ ...(await verbs[verb](argument)), requests }));
