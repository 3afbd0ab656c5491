#!/bin/sh
# Deploy an application and wait for the outcome: exit code 0 if it serves, 1 if it does not, 2 if nothing was started.
# It needs curl and a POSIX shell with sed and tr.
#
#   PUSHDEPLOY_URL          the gateway, such as https://deploy.example.com
#   PUSHDEPLOY_API_KEY      a key that may deploy the application (gateway keys create ci --scope deploy --application ID)
#   PUSHDEPLOY_APPLICATION  the application's id
#   PUSHDEPLOY_IMAGE        optional: the image to deploy; it becomes the application's when it serves
#   PUSHDEPLOY_TITLE        optional: what the deployment is called
#   PUSHDEPLOY_SOURCE       optional: the address of the repository that the image was built from, and with it
#   PUSHDEPLOY_REVISION     the commit's full hash: its status is shown there where the image has no labels
#   PUSHDEPLOY_TIMEOUT      optional: seconds to wait, 900
#
# The key is never an argument of a program, where other users of the machine could read it.
set -eu

fail() {
    printf '%s\n' "$2" >&2
    exit "$1"
}

[ -n "${PUSHDEPLOY_URL:-}" ] || fail 2 "Set PUSHDEPLOY_URL to the address of the gateway."
[ -n "${PUSHDEPLOY_API_KEY:-}" ] || fail 2 "Set PUSHDEPLOY_API_KEY to an API key: gateway keys create ci --scope deploy"
[ -n "${PUSHDEPLOY_APPLICATION:-}" ] || fail 2 "Set PUSHDEPLOY_APPLICATION to the application's id: gateway apps list"
url=${PUSHDEPLOY_URL%/}
timeout=${PUSHDEPLOY_TIMEOUT:-900}
case $timeout in '' | *[!0-9]*) fail 2 "PUSHDEPLOY_TIMEOUT is a number of seconds, such as 900." ;; esac
case $PUSHDEPLOY_API_KEY in *[!A-Za-z0-9_-]*) fail 2 "PUSHDEPLOY_API_KEY has characters that no key has." ;; esac
case $PUSHDEPLOY_APPLICATION in *[!A-Za-z0-9_.-]*) fail 2 "PUSHDEPLOY_APPLICATION has characters that no id has." ;; esac

# Write text as a JSON string. What is on several lines becomes one.
quote() {
    printf '"%s"' "$(printf '%s' "$1" | tr '\n\r\t' '   ' | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g')"
}

# Ask the gateway: METHOD PATH [BODY]. Prints headers, an empty line, and the body. The key comes from standard input.
ask() {
    if [ "$1" = POST ]; then
        set -- "$2" --request POST --header 'Content-Type: application/json' --data "$3"
    else
        set -- "$2"
    fi
    path=$1
    shift
    printf 'header = "x-api-key: %s"\n' "$PUSHDEPLOY_API_KEY" |
        curl --config - --silent --show-error --include --max-time 60 --proto '=http,https' "$@" "$url$path" |
        tr -d '\r'
}

# Print the value of a text field of the first object that has it, unescaped as far as a terminal needs it.
field() {
    printf '%s\n' "$2" | tr '\n' ' ' |
        sed -n -E 's/^[^{]*(\{.*)$/\1/; s/^.*"'"$1"'": ?"(([^"\\]|\\.)*)".*$/\1/p' |
        sed -e 's/\\n/ /g' -e 's/\\"/"/g' -e 's/\\\\/\\/g'
}

status_of() {
    printf '%s\n' "$1" | sed -n -E 's/^HTTP\/[0-9.]+ ([0-9]+).*$/\1/p' | tail -n 1
}

# The reason is an object of its own: what other fields are called does not matter.
reason() {
    printf '%s\n' "$1" | tr '\n' ' ' |
        sed -n -E 's/^.*"reason": ?(\{("([^"\\]|\\.)*": ?"([^"\\]|\\.)*",? ?)+\}).*$/\1/p'
}

body="{\"applicationId\": $(quote "$PUSHDEPLOY_APPLICATION")"
[ -z "${PUSHDEPLOY_IMAGE:-}" ] || body="$body, \"dockerImage\": $(quote "$PUSHDEPLOY_IMAGE")"
[ -z "${PUSHDEPLOY_TITLE:-}" ] || body="$body, \"title\": $(quote "$PUSHDEPLOY_TITLE")"
if [ -n "${PUSHDEPLOY_SOURCE:-}" ] && [ -n "${PUSHDEPLOY_REVISION:-}" ]; then
    body="$body, \"source\": $(quote "$PUSHDEPLOY_SOURCE"), \"revision\": $(quote "$PUSHDEPLOY_REVISION")"
fi
answer=$(ask POST /api/application.deploy "$body}")
[ -n "$(status_of "$answer")" ] || fail 2 "The gateway cannot be reached at $url: look at PUSHDEPLOY_URL."
deployment=$(printf '%s\n' "$answer" | sed -n -E 's/^[Xx]-[Dd]eployment-[Ii]d: *([A-Za-z0-9_.-]+).*$/\1/p')
[ -n "$deployment" ] || fail 2 "Nothing was started ($(status_of "$answer")): $(field message "$answer")"
printf 'Deployment %s\n' "$deployment"

waited=0 shown='' failures=0
while [ "$waited" -lt "$timeout" ]; do
    answer=$(ask GET "/api/deployment.one?deploymentId=$deployment")
    if [ "$(status_of "$answer")" != 200 ]; then
        # A gateway that is restarted comes back, and goes on.
        failures=$((failures + 1))
        case $(status_of "$answer") in 401 | 403 | 404) fail 1 "The gateway refuses: $(field message "$answer")" ;; esac
        [ "$failures" -le 60 ] || fail 1 "The gateway does not answer any more: look at deployment $deployment."
    else
        failures=0
        state=$(field state "$answer")
        [ "$state" = "$shown" ] || printf '%s\n' "$state"
        shown=$state
        why=$(reason "$answer")
        case $state in
            succeeded | unchanged) exit 0 ;;
            queued | running | '') ;;
            *)
                printf '%s: %s\n%s\n' "$(field code "$why")" "$(field message "$why")" "$(field remedy "$why")" >&2
                fail 1 "Deployment $deployment: $state"
                ;;
        esac
    fi
    sleep 1
    waited=$((waited + 1))
done
fail 1 "Deployment $deployment is still ${shown:-unknown} after $timeout s: $(field message "$(reason "$answer")")"
